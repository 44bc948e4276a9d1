"""The SQL of lists, composed from the fixed fragments in this file. No input becomes SQL.

A list has an order in which every user has exactly one place. A page begins at an offset or beside
a place, its *position*; beside a place it costs the same wherever that is, since the index of the
order leads there.
"""

from functools import lru_cache
from typing import Any, NamedTuple

from psycopg2 import sql

from user_service.domain.positions import OTHER_SIDE, Count, Filters, Order, Page, Position, Side
from user_service.domain.user import User

USER_COLUMNS = ", ".join(User._fields)

# From this offset on, a page is found by the index of its order alone, which costs a second scan.
FAR_OFFSET = 1000

# Sent along with each statement of a list, and undone at its end. A sequential scan would be chosen
# where a filter admits most users. JIT compilation would be chosen for the count's small table,
# whose sequential scan looks very expensive once it is discouraged.
LIST_SETTINGS = "SET LOCAL enable_seqscan = off; SET LOCAL jit = off; "


class Shape(NamedTuple):
    """All that the text of a list's statement depends on; everything else is bound.

    ``names`` are those of the filters. ``side`` is None for a page at an offset, and ``far`` tells
    that this is FAR_OFFSET or more.
    """

    names: tuple[str, ...] = ()
    order: Order = Order()
    side: Side | None = None
    counted: bool = False
    far: bool = False


# "^@" (starts with) uses an index since the columns are COLLATE "C"; OR makes it two index scans.
_FILTERS = {
    "ids": "id = ANY(%(ids)s::bigint[])",
    "username": "username_canonical = %(username)s",
    "email": "email_canonical = %(email)s",
    "prefix": "(username_canonical ^@ %(prefix)s OR email_canonical ^@ %(email_prefix)s)",
    "created_since": "created_at >= %(created_since)s",
    "created_before": "created_at < %(created_before)s",
    "updated_since": "updated_at >= %(updated_since)s",
}
# The columns of each order, which together are unique, and have an index.
_KEYS = {
    "id": ("id",),
    "username": ("username_canonical",),
    "created_at": ("created_at", "id"),
    "updated_at": ("updated_at", "id"),
}
_DESCENDING = {">": "<", ">=": "<=", "<": ">", "<=": ">="}

# The left join keeps total and behind where the page is empty: a row whose user is all NULL.
_LIST = """
    SELECT list.total, list.behind, page.*
    FROM (SELECT {total} AS total, {behind} AS behind) AS list LEFT JOIN (
        SELECT {value} AS value, {columns}
        FROM {users}
        WHERE {where}
        ORDER BY {scan}
        LIMIT %(one_more)s OFFSET {offset}
    ) AS page ON true
    ORDER BY page.value {direction}, page.id {direction}
"""
_ESTIMATE = "EXPLAIN (FORMAT JSON) SELECT FROM users WHERE {where}"
_ALL_USERS = "(SELECT sum(number)::bigint FROM users_count)"
_MATCHING_USERS = "(SELECT count(*) FROM users WHERE {where})"
_ANY_USER = "EXISTS (SELECT FROM {users} WHERE {where})"
# OFFSET 0 keeps the planner from merging the subquery, so that the filters are applied before the
# order. Users with a prefix are neighbours in the order of usernames. The planner takes them to be
# spread evenly, and would read all users before them in that order.
_FILTERED_FIRST = "(SELECT * FROM users WHERE {where} OFFSET 0) AS users"
# The place at the offset. The index alone has it, once VACUUM has marked the table's pages visible.
_PLACE_AT_OFFSET = "SELECT {key} FROM users ORDER BY {scan} LIMIT 1 OFFSET %(offset)s"


def composed(template: str, **fragments: str) -> str:
    """Return SQL made of constants, never of input."""
    parts = {name: sql.SQL(fragment) for name, fragment in fragments.items()}
    return sql.SQL(template).format(**parts).as_string(None)  # type: ignore[arg-type] # needs none


def shape_of(position: Position | int, order: Order, filters: Filters, count: Count) -> Shape:
    """Return the shape of a page's statement."""
    names = filters.names
    side, offset = (None, position) if isinstance(position, int) else (position.side, 0)
    # Without a filter, the exact total is as cheap as an estimate.
    counted = count == "exact" or (count == "estimated" and not names)
    return Shape(names, order, side, counted=counted, far=offset >= FAR_OFFSET and not names)


@lru_cache(maxsize=1024)
def list_statement(shape: Shape) -> str:
    """Return the statement for a page, for the values in ``binds`` and with LIST_SETTINGS.

    Its rows are one user more than the limit if the list goes on. Users before a place come in
    reverse order.
    """
    users, filters = _users(shape)
    key = _KEYS[shape.order.by]
    is_descending = shape.order.descending is (shape.side is None or shape.side.forward)
    direction = "DESC" if is_descending else "ASC"
    scan = ", ".join(f"{column} {direction}" for column in key)
    if shape.far:
        at_offset = composed(_PLACE_AT_OFFSET, key=", ".join(key), scan=scan)
        begin, offset = _beside(shape.order, Side.FROM, at_offset), "0"
    else:
        begin, offset = _beside(shape.order, shape.side), "%(offset)s"
    return composed(
        _LIST,
        total=_total(shape.names) if shape.counted else "NULL::bigint",
        behind=_behind(shape, users, filters),
        value=key[0],
        columns=USER_COLUMNS,
        users=users,
        where=_all_of([*filters, *begin]),
        scan=scan,
        offset=offset,
        direction=direction,
    )


@lru_cache(maxsize=128)
def estimate_statement(names: tuple[str, ...]) -> str:
    """Return the statement by which the planner estimates how many users match the filters."""
    return composed(_ESTIMATE, where=_all_of(_conditions(names)))


def binds(filters: Filters, position: Position | int, limit: int) -> dict[str, Any]:
    """Return the values that both statements bind."""
    bound = {name: getattr(filters, name) for name in filters.names} | {"one_more": limit + 1}
    if filters.prefix is not None:
        bound["prefix"], bound["email_prefix"] = filters.prefix
    if isinstance(position, int):
        return bound | {"offset": position}
    return bound | {"offset": 0, "value": position.value, "id": position.id}


def page_of(rows: list[tuple[Any, ...]], position: Position | int, limit: int) -> Page:
    """Return the page of ``limit`` users that the rows of a ``list_statement`` make."""
    total, behind, first_value = rows[0][:3]
    if first_value is None:
        return Page([], total, *_around_empty_page(position, behind=behind))
    ahead = len(rows) > limit
    found = [(row[2], User._make(row[3:])) for row in rows[:limit]]
    forward = isinstance(position, int) or position.side.forward
    if not forward:
        found.reverse()
    after, before = (ahead, behind) if forward else (behind, ahead)
    (first, first_user), (last, last_user) = found[0], found[-1]
    return Page(
        [user for _, user in found],
        total,
        Position(Side.AFTER, last, last_user.id) if after else None,
        Position(Side.BEFORE, first, first_user.id) if before else None,
    )


def with_estimate(page: Page, row: tuple[Any, ...], position: Position | int) -> Page:
    """Return ``page`` with the planner's total, corrected by the users that the page shows."""
    ((explained,),) = row
    estimate, shown = int(explained["Plan"]["Plan Rows"]), len(page.users)
    if page.next is None and page.previous is None:  # the page has the whole list
        total = shown
    elif page.next is None and isinstance(position, int):  # the list ends here, or before here
        total = position + shown if page.users else min(max(1, estimate), position)
    else:
        before = position if isinstance(position, int) else int(page.previous is not None)
        total = max(estimate, before + shown + int(page.next is not None))
    return page._replace(total=total, estimated=True)


def _around_empty_page(
    position: Position | int, *, behind: bool
) -> tuple[Position | None, Position | None]:
    """Return the next and the previous position: the users from which the page was read away."""
    if not behind:
        return None, None
    if isinstance(position, int):
        return None, Position(Side.END)
    back = Position(OTHER_SIDE[position.side], position.value, position.id)
    return (None, back) if position.side.forward else (back, None)


def _users(shape: Shape) -> tuple[str, list[str]]:
    """Return the source of a list's users, and the filters that are left to apply to it."""
    filters = _conditions(shape.names)
    if "prefix" in shape.names and shape.order.by == "username":
        return composed(_FILTERED_FIRST, where=_all_of(filters)), []
    return "users", filters


def _total(names: tuple[str, ...]) -> str:
    return composed(_MATCHING_USERS, where=_all_of(_conditions(names))) if names else _ALL_USERS


def _behind(shape: Shape, users: str, filters: list[str]) -> str:
    """Return the condition that the list has users on the other side of the page's begin."""
    if shape.side is Side.END:
        return "false"
    if shape.side is None:
        return "%(offset)s > 0 AND " + composed(_ANY_USER, users=users, where=_all_of(filters))
    beyond = _beside(shape.order, OTHER_SIDE[shape.side])
    return composed(_ANY_USER, users=users, where=_all_of([*filters, *beyond]))


def _beside(order: Order, side: Side | None, place: str = "") -> list[str]:
    """Return the condition to be on ``side`` of ``place``, by default of the place that is bound.

    There is none for a page that does not begin beside a place.
    """
    if side in (None, Side.END):
        return []
    key = _KEYS[order.by]
    place = place or ", ".join(("%(value)s", "%(id)s")[: len(key)])
    comparison = _DESCENDING[side] if order.descending else side.value
    return [f"({', '.join(key)}) {comparison} ({place})"]


def _conditions(names: tuple[str, ...]) -> list[str]:
    return [_FILTERS[name] for name in names]


def _all_of(conditions: list[str]) -> str:
    return " AND ".join(conditions) or "true"
