"""The user: the one declaration of its members."""

from datetime import datetime
from typing import NamedTuple


class User(NamedTuple):
    """One row of ``users``: its columns have the names of the members.

    ``version`` counts the changes of a user, from 1; clients see it in the ETag.
    """

    id: int
    username: str
    email: str
    created_at: datetime
    updated_at: datetime
    version: int = 1


# The members that clients see, in their order.
USER_MEMBERS = tuple(name for name in User._fields if name != "version")

# The members that the database sets, and those that clients set.
GIVEN_MEMBERS = ("id", "created_at", "updated_at")
WRITABLE_MEMBERS = tuple(name for name in USER_MEMBERS if name not in GIVEN_MEMBERS)
