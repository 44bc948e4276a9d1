"""The user."""

from datetime import datetime
from typing import NamedTuple

# The members of a user, in the order in which clients see them: the first fields of User.
USER_MEMBERS = ("id", "username", "email", "created_at", "updated_at")


class User(NamedTuple):
    """One row of ``users``. ``version`` counts its changes, from 1; clients see it in the ETag."""

    id: int
    username: str
    email: str
    created_at: datetime
    updated_at: datetime
    version: int
