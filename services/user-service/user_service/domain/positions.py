"""Lists of users: their order, their filters, and positions in them.

In an order every user has exactly one place: the value of the sort column, and the id where values
are equal. A page begins at an offset, or at a position beside a place (keyset pagination).
"""

from dataclasses import dataclass, fields
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from typing import Literal, NamedTuple

from user_service.domain.user import User

SortColumn = Literal["id", "username", "created_at", "updated_at"]
Count = Literal["exact", "estimated", "none"]


class Order(NamedTuple):
    """How a list is sorted; usernames by their canonical form."""

    by: SortColumn = "id"
    descending: bool = False


@dataclass(frozen=True)
class Filters:
    """Which users a list holds: None does not filter, all else must match. Names are canonical."""

    ids: list[int] | None = None
    username: str | None = None
    email: str | None = None
    prefix: str | None = None
    created_since: datetime | None = None
    created_before: datetime | None = None
    updated_since: datetime | None = None

    @cached_property
    def names(self) -> tuple[str, ...]:
        """What is filtered by."""
        return tuple([name for name in _FILTER_NAMES if getattr(self, name) is not None])


_FILTER_NAMES = tuple(field.name for field in fields(Filters))


class Side(StrEnum):
    """On which side of a place a page lies, in the order of the list; "=" includes the place."""

    AFTER = ">"
    FROM = ">="
    BEFORE = "<"
    UP_TO = "<="
    END = "end"

    @property
    def forward(self) -> bool:
        """Whether the page is read from the place on, rather than back from it."""
        return self in (Side.AFTER, Side.FROM)


OTHER_SIDE = {
    Side.AFTER: Side.UP_TO,
    Side.UP_TO: Side.AFTER,
    Side.BEFORE: Side.FROM,
    Side.FROM: Side.BEFORE,
}


class Position(NamedTuple):
    """Where a page lies: on a side of a place in the order, at which no user needs to be.

    ``value`` is what the list is sorted by. On the side ``END``, of all users, both say nothing.
    """

    side: Side
    value: int | str | datetime = 0
    id: int = 0


class Page(NamedTuple):
    """One page, how many users the whole list has if that was asked, and what lies beside it."""

    users: list[User]
    total: int | None
    next: Position | None
    previous: Position | None
    estimated: bool = False
