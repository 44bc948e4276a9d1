"""Lists of users: their order, their filters, and positions in them.

In an order, every user has exactly one place: the value of the sort column, then the id where
values are equal. A page begins at an offset, or at a position beside a place (keyset pagination).
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from typing import Literal, NamedTuple

from user_service.domain.user import User

SortColumn = Literal["id", "username", "created_at", "updated_at"]
Count = Literal["exact", "estimated", "none"]


class Order(NamedTuple):
    """The order of a list; usernames are sorted by their canonical form."""

    by: SortColumn = "id"
    descending: bool = False


class NamePrefix(NamedTuple):
    """The beginning of a username or of an address, in the canonical form of each."""

    username: str
    email: str


@dataclass(frozen=True)
class Filters:
    """The filters of a list: users match all that are not None. Names are in canonical form."""

    ids: list[int] | None = None
    username: str | None = None
    email: str | None = None
    prefix: NamePrefix | None = None
    created_since: datetime | None = None
    created_before: datetime | None = None
    updated_since: datetime | None = None

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the filters in use."""
        return tuple([name for name, value in vars(self).items() if value is not None])


class Side(StrEnum):
    """The side of a place on which a page lies, in the order of the list; "=" includes the place.

    ``END`` is the end of the list.
    """

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
    """A side of a place in the order of a list. There may be no user at the place.

    ``value`` is that of the sort column. On the side ``END``, value and id have no meaning.
    """

    side: Side
    value: int | str | datetime = 0
    id: int = 0


class Page(NamedTuple):
    """One page of a list, the number of users on all pages if it was asked for, and the neighbours.

    ``estimated`` tells that the planner estimated ``total``.
    """

    users: list[User]
    total: int | None
    next: Position | None
    previous: Position | None
    estimated: bool = False
