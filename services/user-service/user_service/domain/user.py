"""The user. SQL, the names of cached pages and ``fields`` follow from its members."""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class User(NamedTuple):
    """One row of ``users``: its columns have the names of the members.

    ``version`` counts the changes of a user, from 1.
    """

    id: int
    username: str
    email: str
    created_at: datetime
    updated_at: datetime
    version: int = 1

    @property
    def revision(self) -> str:
        """A text that belongs to this state alone.

        A database that was restored from a dump counts its versions again, up from the dump's. The
        time tells the states of both histories apart.
        """
        microseconds = (self.updated_at - _EPOCH) // timedelta(microseconds=1)
        return f"{self.id}-{self.version}-{microseconds:x}"


# The members that clients see, in their order.
USER_MEMBERS = tuple(name for name in User._fields if name != "version")

# The members that the database sets, and those that clients do.
READ_ONLY_MEMBERS = ("id", "created_at", "updated_at")
WRITABLE_MEMBERS = tuple(name for name in USER_MEMBERS if name not in READ_ONLY_MEMBERS)
