"""What clients may send, and the form in which names and addresses are compared."""

import unicodedata
from typing import Annotated

import idna
from email_validator import EmailNotValidError, validate_email
from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints

NO_CONTROL_CHARACTERS = r"^[^\x00-\x1f\x7f]*$"


def _real_address(text: str) -> str:
    try:
        validate_email(text, check_deliverability=False)
    except EmailNotValidError:
        raise ValueError("must be an email address") from None
    return text


Username = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True, min_length=3, max_length=50, pattern=NO_CONTROL_CHARACTERS
    ),
]
Email = Annotated[
    str,
    StringConstraints(strip_whitespace=True, max_length=255),
    AfterValidator(_real_address),
]


class UserWrite(BaseModel):
    """A whole user, for POST and PUT."""

    model_config = ConfigDict(strict=True, extra="forbid")

    username: Username
    email: Email


def canonical_username(username: str) -> str:
    """Return the form in which usernames are compared."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", username).casefold())


def canonical_email(email: str) -> str:
    """Return the form in which addresses are compared; the domain in ASCII."""
    local, _, domain = email.rpartition("@")
    ascii_domain = domain if domain.isascii() else idna.encode(domain, uts46=True).decode()
    return f"{canonical_username(local)}@{ascii_domain.lower()}"
