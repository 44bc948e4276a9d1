"""Pages of lists: read alone, or together with those that are asked for at the same time."""

from collections.abc import Set
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from psycopg2.extensions import cursor

from user_service.database.pool import Database
from user_service.database.replica import Replica
from user_service.database.user_lists import (
    MANY,
    VERY_MANY,
    Shape,
    binds,
    binds_together,
    estimate_statement,
    list_statement,
    page_of,
    statement_together,
    with_estimate,
)
from user_service.domain.positions import Count, Filters, Order, Page, Position
from user_service.errors import ReplicaUnusable
from user_service.observability.server_timing import stage
from user_service.resilience.batch import Batcher

EVERYBODY = Filters()
# Pages of one statement. Of ten, each costs half of what it costs alone, and of more no less: they
# would only wait for each other.
MOST = 16


class Place(NamedTuple):
    """Where a page begins, and how many users it holds at most."""

    position: Position | int
    limit: int


class PageReader:
    """Reads pages from ``replica``, if there is one that will do, or from ``database``."""

    def __init__(self, database: Database, replica: Replica | None = None) -> None:
        self._database = database
        self._replica = replica
        self._batchers: dict[Shape, Batcher[Place, Page]] = {}

    def page(self, place: Place, order: Order, filters: Filters, count: Count) -> Page:
        """Return the page at a place.

        Those who would have to wait for a connection share it with those who come meanwhile, or
        right after: pages of one shape that nothing filters, and that are not very far down, are
        then one statement. A replica is asked for each alone: what it must have replayed is not the
        same for all.
        """
        names, position = filters.names, place.position
        side, passed = (None, position) if isinstance(position, int) else (position.side, 0)
        # Without a filter, an exact total is as cheap as an estimated one.
        counted = count == "exact" or (count == "estimated" and not names)
        shape = Shape(names, order, side, counted=counted, far=not names and passed >= MANY)
        # Else it is not worth a statement of its own to find nobody: a lookup of one name often
        # does, and a page beyond a million others has passed over all of them.
        expects_somebody = not names and passed < VERY_MANY

        def read(lent: cursor) -> Page:
            page = _page(lent, shape, place, filters, expects_somebody=expects_somebody)
            if counted or count == "none":
                return page
            (row,) = _rows(lent, estimate_statement(names), binds(filters, *place))
            return with_estimate(page, row, position)

        if self._replica is not None:
            with suppress(ReplicaUnusable):
                return self._replica.read(read)
        if expects_somebody:
            batcher = self._batcher(shape)
            # Who comes while there is a connection again does not overtake those who gather.
            if batcher.is_gathering or self._database.is_full:
                with stage("sql"):
                    return batcher.get(place)
        with self._database.read() as lent:
            return read(lent)

    def _batcher(self, shape: Shape) -> Batcher[Place, Page]:
        """Return what asks for pages of a shape together."""
        batcher = self._batchers.get(shape)
        if batcher is None:
            read = partial(self._read_together, shape)
            batcher = Batcher(read, by_deadline=True, most=MOST)
            batcher = self._batchers.setdefault(shape, batcher)
        return batcher

    def _read_together(self, shape: Shape, places: Set[Place]) -> dict[Place, Page]:
        with self._database.read(requests=len(places)) as cursor:
            if len(places) == 1:
                return {place: _page(cursor, shape, place) for place in places}
            numbered = list(places)
            rows: dict[Place, list[tuple[Any, ...]]] = {place: [] for place in numbered}
            statement = statement_together(shape, len(numbered))
            for row in _rows(cursor, statement, binds_together(numbered)):
                rows[numbered[row[-1]]].append(row)
            return {
                place: page_of(found, *place)
                if found
                else _page(cursor, shape, place, expects_somebody=False)
                for place, found in rows.items()
            }


def _page(
    cursor: cursor,
    shape: Shape,
    place: Place,
    filters: Filters = EVERYBODY,
    *,
    expects_somebody: bool = True,
) -> Page:
    bound = binds(filters, *place)
    found = _rows(cursor, list_statement(shape), bound) if expects_somebody else []
    if not found:
        found = _rows(cursor, list_statement(shape, even_if_empty=True), bound)
    return page_of(found, *place)


def _rows(cursor: cursor, statement: str, bound: dict[str, Any]) -> list[tuple[Any, ...]]:
    cursor.execute(statement, bound)
    return cursor.fetchall()
