"""The SQL of lists, put together from the fixed fragments in this file. No input becomes SQL.

A list has an order in which every user has exactly one place: that of the column it is sorted by,
and of the id where that is the same. A page begins at an offset or beside a place, its *position*;
beside one it costs the same wherever it is, since the index of the order leads there.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple

from psycopg2 import sql

from user_service.domain.positions import OTHER_SIDE, Filters, Order, Page, Position, Side
from user_service.domain.user import User


class Shape(NamedTuple):
    """What the SQL of a page depends on; all else is bound.

    That is the ``names`` of what the list is filtered by, its order, on which ``side`` of a place
    the page lies (None if it begins at an offset), whether the list is ``counted``, and whether the
    page is ``far`` down.
    """

    names: tuple[str, ...] = ()
    order: Order = Order()
    side: Side | None = None
    counted: bool = False
    far: bool = False


# An OR of two prefixes is two index scans; "^@" uses an index because the columns are COLLATE "C".
_FILTERS = {
    "ids": "id = ANY(%(ids)s::bigint[])",
    "username": "username_canonical = %(username)s",
    "email": "email_canonical = %(email)s",
    "prefix": "(username_canonical ^@ %(prefix)s OR email_canonical ^@ %(prefix)s)",
    "created_since": "created_at >= %(created_since)s",
    "created_before": "created_at < %(created_before)s",
    "updated_since": "updated_at >= %(updated_since)s",
}
_VALUE = {
    "id": "id",
    "username": "username_canonical",
    "created_at": "created_at",
    "updated_at": "updated_at",
}
# What is compared with a place. Ids and canonical usernames are unique: no tie to break.
_PLACE = {
    "id": ("id", "%(value)s"),
    "username": ("username_canonical", "%(value)s"),
    "created_at": ("(created_at, id)", "(%(value)s, %(id)s)"),
    "updated_at": ("(updated_at, id)", "(%(value)s, %(id)s)"),
}
_ORDER = {
    ("id", False): "id",
    ("id", True): "id DESC",
    ("username", False): "username_canonical",
    ("username", True): "username_canonical DESC",
    ("created_at", False): "created_at, id",
    ("created_at", True): "created_at DESC, id DESC",
    ("updated_at", False): "updated_at, id",
    ("updated_at", True): "updated_at DESC, id DESC",
}
_DESCENDING = {">": "<", ">=": "<=", "<": ">", "<=": ">="}

# SET LOCAL, in the same round trip and over with it: a sequential scan would be chosen where a
# filter lets most users through, and be paid for by everybody else on the same disk. What has to
# scan nevertheless (the slots of the count) then looks so dear, up to PostgreSQL 17, that the
# whole statement would be compiled first: 350 ms for a page that takes 2.
_SETTINGS = "SET LOCAL enable_seqscan = off; SET LOCAL jit = off; "
_LIST = """
    SELECT {total} AS total, {behind} AS behind,
           {value} AS value, id, username, email, created_at, updated_at, version{which}
    FROM {users}
    WHERE {where}
    ORDER BY {scan}
    LIMIT %(one_more)s OFFSET {offset}
"""
# Several, each by the plan that it has alone: with its limit and offset in the rows of a table that
# it is joined to, PostgreSQL would take a tenth of all users to be wanted, and plan for that.
_TOGETHER = """
    SELECT {total} AS total, behind,
           page.value, page.id, username, email, created_at, updated_at, version, which
    FROM ({pages}) AS page
    ORDER BY which, {taken}
"""
# Total and behind, beside a user of nothing but NULLs if there is nobody on the page. It takes a
# quarter longer than the page alone, so it is for when nobody is, or may well be.
_EVEN_IF_EMPTY = """
    SELECT {total} AS total, {behind} AS behind,
           page.value, page.id, username, email, created_at, updated_at, version
    FROM (VALUES (true)) AS always LEFT JOIN ({page}) AS page ON true
    ORDER BY {taken}
"""
_ESTIMATE = "EXPLAIN (FORMAT JSON) SELECT FROM users WHERE {where}"
_ALL_USERS = "(SELECT sum(number)::bigint FROM users_count)"
_USERS = "(SELECT count(*) FROM users WHERE {where})"
_SOMEBODY = "EXISTS (SELECT FROM {users} WHERE {where})"
# OFFSET 0 has the planner find those who pass before it looks at their order.
_FOUND_FIRST = "(SELECT * FROM users WHERE {where} OFFSET 0) AS users"
# The place at the offset, found by the index alone, which has the order but not the users. A join
# of those on the page with their keys took PostgreSQL 208 us rather than 142 (offset 1,000): there
# was more to plan.
_FAR_PLACE = "(SELECT {fields} FROM users ORDER BY {scan} LIMIT 1 OFFSET %(offset)s)"
# What is bound in a page that nothing filters.
_BOUND = ("offset", "value", "id", "one_more")
# From this offset on; before it, planning and starting a second scan costs more than that saves.
MANY = 1000
# Passing over so many takes a millisecond.
VERY_MANY = 10_000


@lru_cache(maxsize=1024)
def list_statement(shape: Shape, *, even_if_empty: bool = False) -> str:
    """Return the statement for a page.

    The database returns one user more than ``limit``, if the list goes on, and those before a
    place backwards. What is bound is in ``binds``.

    Of an empty page nothing is returned, but ``even_if_empty`` a row that says what lies beside it.
    """
    if not even_if_empty:
        return _SETTINGS + _page(shape, _total(shape), _behind_somebody(shape))
    return _SETTINGS + _composed(
        _EVEN_IF_EMPTY,
        total=_total(shape),
        behind=_behind(shape),
        page=_page(shape, "NULL", "NULL"),
        taken=_taken(shape),
    )


@lru_cache(maxsize=256)
def statement_together(shape: Shape, number: int) -> str:
    """Return the statement for a ``number`` of pages that nothing filters, in ``binds_together``.

    Its rows are as those of a ``list_statement``, and say last to which of the pages they belong.
    """
    page = _page(shape, "NULL", _behind_somebody(shape), which=", %(which)s AS which")
    pages = [
        page % {"which": which, **{name: f"%({name}_{which})s" for name in _BOUND}}
        for which in range(number)
    ]
    union = "(" + ") UNION ALL (".join(pages) + ")"
    return _SETTINGS + _composed(_TOGETHER, total=_total(shape), pages=union, taken=_taken(shape))


def _page(shape: Shape, total: str, behind: str, which: str = "") -> str:
    users, where = _users(shape)
    scan = _ORDER[shape.order.by, _downwards(shape)]
    side, place = shape.side, None
    if shape.far:
        fields = _ORDER[shape.order.by, False]
        side, place = Side.FROM, _composed(_FAR_PLACE, fields=fields, scan=scan)
    return _composed(
        _LIST,
        total=total,
        behind=behind,
        value=_VALUE[shape.order.by],
        which=which,
        users=users,
        offset="0" if shape.far else "%(offset)s",
        where=_all_of([*where, *_beside(shape.order, side, place)]),
        scan=scan,
    )


def binds(filters: Filters, position: Position | int, limit: int) -> dict[str, Any]:
    """Return what is bound in a ``list_statement``."""
    return _place(position, limit) | {name: getattr(filters, name) for name in filters.names}


def binds_together(asked: Iterable[tuple[Position | int, int]]) -> dict[str, Any]:
    """Return what is bound in a ``statement_together``, of each page's position and limit."""
    return {
        f"{name}_{which}": value
        for which, page in enumerate(asked)
        for name, value in _place(*page).items()
    }


def _place(position: Position | int, limit: int) -> dict[str, Any]:
    if isinstance(position, int):
        return {"offset": position, "one_more": limit + 1}
    return {"offset": 0, "value": position.value, "id": position.id, "one_more": limit + 1}


@lru_cache(maxsize=128)
def estimate_statement(names: tuple[str, ...]) -> str:
    """Return the statement that asks the planner how many users the filters let through."""
    return _composed(_ESTIMATE, where=_all_of([_FILTERS[name] for name in names]))


def page_of(rows: list[tuple[Any, ...]], position: Position | int, limit: int) -> Page:
    """Return the page of ``limit`` users that the rows of a ``list_statement`` make."""
    total, behind, _, first_id = rows[0][:4]
    if first_id is None:
        return Page([], total, *_around_nobody(position, behind=behind))
    ahead, found = len(rows) > limit, rows[:limit]
    forward = isinstance(position, int) or position.side.forward
    if not forward:
        found.reverse()
    after, before = (ahead, behind) if forward else (behind, ahead)
    return Page(
        [User._make(row[3:9]) for row in found],
        total,
        Position(Side.AFTER, *found[-1][2:4]) if after else None,
        Position(Side.BEFORE, *found[0][2:4]) if before else None,
    )


def with_estimate(page: Page, row: tuple[Any], position: Position | int) -> Page:
    """Return ``page`` with the total in the planner's answer, put right by what the page shows."""
    ((explained,),) = row
    estimate = int(explained["Plan"]["Plan Rows"])
    before = (
        position if isinstance(position, int) and page.users else int(page.previous is not None)
    )
    at_least = before + len(page.users) + int(page.next is not None)
    total = max(estimate, at_least)
    if page.next is None:  # then the list ends here, or before here
        if page.previous is None:
            total = at_least
        elif isinstance(position, int):
            total = min(total, position + len(page.users))
    return page._replace(total=total, estimated=True)


def _around_nobody(
    position: Position | int, *, behind: bool
) -> tuple[Position | None, Position | None]:
    """Return what is next and previous of an empty page: those whom it was read away from."""
    if not behind:
        return None, None
    if isinstance(position, int):
        return None, Position(Side.END)
    back = Position(OTHER_SIDE[position.side], position.value, position.id)
    return (None, back) if position.side.forward else (back, None)


def _users(shape: Shape) -> tuple[str, list[str]]:
    """Return where the users of a list are read from, and the filters that are left to apply.

    Who has a prefix stands together in the order of usernames. The planner takes them to be spread
    evenly, and would read everybody before them in that order: seconds, of a million users.
    """
    filters = [_FILTERS[name] for name in shape.names]
    if "prefix" in shape.names and shape.order.by == "username":
        return _composed(_FOUND_FIRST, where=_all_of(filters)), []
    return "users", filters


def _total(shape: Shape) -> str:
    if not shape.counted:
        return "NULL::bigint"
    if not shape.names:
        return _ALL_USERS
    return _composed(_USERS, where=_all_of([_FILTERS[name] for name in shape.names]))


def _behind(shape: Shape) -> str:
    """Return the condition that the list has users on the other side of where the page begins."""
    users, where = _users(shape)
    if shape.side is None:
        return "%(offset)s > 0 AND " + _composed(_SOMEBODY, users=users, where=_all_of(where))
    if shape.side is Side.END:
        return "false"
    beyond = _beside(shape.order, OTHER_SIDE[shape.side])
    return _composed(_SOMEBODY, users=users, where=_all_of([*where, *beyond]))


def _behind_somebody(shape: Shape) -> str:
    """Return the same for a page that is not empty: behind that are those who were passed over."""
    return "%(offset)s > 0" if shape.side is None else _behind(shape)


def _downwards(shape: Shape) -> bool:
    """Return whether the page is read from greater values to smaller ones."""
    return shape.order.descending is (shape.side is None or shape.side.forward)


def _taken(shape: Shape) -> str:
    return "page.value DESC, page.id DESC" if _downwards(shape) else "page.value, page.id"


def _beside(order: Order, side: Side | None, place: str | None = None) -> list[str]:
    """Return the condition to be on a side of a place, which is bound if none is given."""
    if side in (None, Side.END):
        return []
    comparison = _DESCENDING[side] if order.descending else side.value
    key, bound = _PLACE[order.by]
    return [f"{key} {comparison} {place or bound}"]


def _all_of(conditions: list[str]) -> str:
    return " AND ".join(conditions) or "true"


def _composed(template: str, **fragments: str) -> str:
    named = {name: sql.SQL(fragment) for name, fragment in fragments.items()}
    return sql.SQL(template).format(**named).as_string(None)  # type: ignore[arg-type]
