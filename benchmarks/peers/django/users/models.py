"""The tables, which migrations of another project make."""

import unicodedata

from django.db import models
from django.utils.encoding import punycode


class User(models.Model):
    """A user; names and addresses are unique in canonical form."""

    id = models.BigAutoField(primary_key=True)
    username = models.TextField()
    username_canonical = models.TextField()
    email = models.TextField()
    email_canonical = models.TextField()
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        managed = False
        db_table = "users"

    def __str__(self) -> str:
        return self.username


class UsersCount(models.Model):
    """How many users there are: the sum over all slots."""

    slot = models.SmallIntegerField(primary_key=True)
    number = models.BigIntegerField()

    class Meta:
        managed = False
        db_table = "users_count"

    def __str__(self) -> str:
        return f"{self.slot}: {self.number}"


def canonical_username(username: str) -> str:
    """Return the form in which usernames are compared."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", username).casefold())


def canonical_email(email: str) -> str:
    """Return the form in which addresses are compared; the domain in ASCII."""
    local, _, domain = email.rpartition("@")
    return f"{canonical_username(local)}@{punycode(domain).lower()}"
