"""The tables, which migrations of another project make."""

import unicodedata
from datetime import datetime

from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import BigInteger, FetchedValue, Identity
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """What all models have in common."""


# What is written comes back by RETURNING: reading it again after each commit is for nothing.
db = SQLAlchemy(model_class=Base, session_options={"expire_on_commit": False})


class User(db.Model):
    """A user; names and addresses are unique in canonical form."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    username: Mapped[str]
    username_canonical: Mapped[str]
    email: Mapped[str]
    email_canonical: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=FetchedValue())
    updated_at: Mapped[datetime] = mapped_column(server_default=FetchedValue())


class UsersCount(db.Model):
    """How many users there are: the sum over all slots."""

    __tablename__ = "users_count"

    slot: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int]


def canonical_username(username: str) -> str:
    """Return the form in which usernames are compared."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", username).casefold())


def canonical_email(email: str) -> str:
    """Return the form in which addresses are compared; the domain in ASCII."""
    local, _, domain = email.rpartition("@")
    ascii_domain = domain if domain.isascii() else domain.encode("idna").decode()
    return f"{canonical_username(local)}@{ascii_domain.lower()}"
