"""Every list that the API allows is read by indexes, as PostgreSQL plans it for 100,000 users."""

from collections.abc import Iterator
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from itertools import chain, combinations, product
from typing import Any, get_args

import pytest
from psycopg2.extensions import cursor

from tests.population import populate
from tests.servers import Servers
from user_service.database.database import Database
from user_service.database.user_lists import (
    LIST_SETTINGS,
    Shape,
    binds,
    estimate_statement,
    list_statement,
)
from user_service.domain.positions import Filters, NamePrefix, Order, Position, Side, SortColumn

USERS = 100_000
BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
MIDDLE = {
    "id": USERS // 2,
    "username": f"user{USERS // 2}",
    "created_at": BEGINNING + timedelta(seconds=USERS // 2),
    "updated_at": BEGINNING + timedelta(seconds=USERS // 2),
}
# For each filter, a value that matches as many users as it can, and one that matches few.
VALUES: dict[str, tuple[Any, Any]] = {
    "ids": (list(range(1, 101)), [7]),
    "username": ("user5", "user5"),
    "email": ("user5@example.com", "user5@example.com"),
    "prefix": (NamePrefix("u", "u"), NamePrefix("user77", "user77")),
    "created_since": (BEGINNING, BEGINNING + timedelta(seconds=USERS - 50)),
    "created_before": (BEGINNING + timedelta(days=900), BEGINNING + timedelta(seconds=50)),
    "updated_since": (BEGINNING, BEGINNING + timedelta(seconds=USERS - 50)),
}
WIDE, NARROW = ({name: values[n] for name, values in VALUES.items()} for n in (0, 1))
NAMES = [field.name for field in fields(Filters)]
ORDERS = [Order(by, descending) for by in get_args(SortColumn) for descending in (False, True)]


@pytest.fixture
def planner(servers: Servers, database_url: str) -> Iterator[cursor]:
    database = Database(servers.owner_url, size=1, statement_timeout=60)
    with database.read() as cursor:
        populate(cursor, USERS)
        cursor.execute("ANALYZE users")
        yield cursor
        cursor.execute("TRUNCATE users RESTART IDENTITY")
    database.close()


def every_filter(values: dict[str, Any]) -> Iterator[Filters]:
    subsets = (combinations(NAMES, size) for size in range(len(NAMES) + 1))
    for names in chain.from_iterable(subsets):
        yield Filters(**{name: values[name] for name in names})


def explained(
    planner: cursor, statement: str, bound: dict[str, Any], options: str = ""
) -> dict[str, Any]:
    """Return the plan for a list's ``statement``."""
    planner.execute(f"{LIST_SETTINGS}EXPLAIN ({options}FORMAT JSON) {statement}", bound)
    ((plan,),) = planner.fetchone() or ()
    return dict(plan)


def blocks_of(planner: cursor, statement: str, bound: dict[str, Any]) -> int:
    """Run a list's ``statement`` and return the number of blocks that it reads."""
    plan = explained(planner, statement, bound, "ANALYZE, BUFFERS, ")["Plan"]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


def scans_of(planner: cursor, statement: str, bound: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the nodes of the plan for ``statement`` that read users."""
    nodes = [explained(planner, statement, bound)["Plan"]]
    while nodes:
        node = nodes.pop()
        nodes += node.get("Plans", [])
        if node.get("Relation Name") == "users" or node.get("Index Name", "").startswith("users_"):
            yield node


def complaint_about(scan: dict[str, Any], order: Order) -> str | None:
    """Return the fault of a ``scan`` of users, if it has one."""
    if scan["Node Type"] == "Seq Scan":
        return "sequential scan"
    index = scan.get("Index Name")
    own = "users_pkey" if order.by == "id" else f"users_{order.by}_key"
    # A scan from one end of an index until the page is full: of use in the list's own order only,
    # or to see if there is any user.
    if index in (None, own, "users_pkey", "users_count_pkey") or "Index Cond" in scan:
        return None
    return f"all of {index}"


@pytest.mark.parametrize("values", [WIDE, NARROW], ids=["wide", "narrow"])
def test_no_list_is_read_by_a_sequential_scan(planner: cursor, values: dict[str, Any]) -> None:
    complaints, plans = [], 0
    for filters, order in product(every_filter(values), ORDERS):
        places: list[tuple[Position | int, Side | None]] = [(0, None), (USERS * 9 // 10, None)]
        places += [(Position(side, MIDDLE[order.by], USERS // 2), side) for side in Side]  # type: ignore[arg-type]
        for position, side in places:
            # Counted, since the plan then holds all that it holds without the count.
            bound = binds(filters, position, 50)
            statement = list_statement(Shape(filters.names, order, side, counted=True))
            plans += 1
            for scan in scans_of(planner, statement, bound):
                complaint = complaint_about(scan, order)
                complaints += [(complaint, filters.names, order, position)] if complaint else []
    assert complaints == []
    assert plans == 2 ** len(NAMES) * len(ORDERS) * (2 + len(Side))


def test_estimate_is_a_plan_and_no_scan(planner: cursor) -> None:
    for filters in every_filter(WIDE):
        planner.execute(estimate_statement(filters.names), binds(filters, 0, 50))
        ((estimate,),) = planner.fetchone() or ()
        assert "Actual Rows" not in estimate["Plan"]
        assert estimate["Plan"]["Plan Rows"] >= 1


def test_page_beside_a_place_reads_hardly_more_than_it_shows(planner: cursor) -> None:
    for order, side in product(ORDERS, (Side.AFTER, Side.BEFORE)):
        bound = binds(Filters(), Position(side, MIDDLE[order.by], USERS // 2), 50)  # type: ignore[arg-type]
        blocks = blocks_of(planner, list_statement(Shape((), order, side)), bound)
        # 51 rows by the index, each on another page of the table at worst, and the way down.
        assert blocks < 80, (order, side)


def test_page_far_down_passes_over_the_others_in_the_index(planner: cursor) -> None:
    """In the table, 90,000 users in the order of usernames are on 65,000 blocks."""
    planner.execute("VACUUM users")  # the index can then tell which rows are visible
    for order in ORDERS:
        statement = list_statement(Shape((), order, counted=True, far=True))
        bound = binds(Filters(), USERS * 9 // 10, 50)
        assert blocks_of(planner, statement, bound) < 1500, order
        complaints = [complaint_about(scan, order) for scan in scans_of(planner, statement, bound)]
        assert not any(complaints), (order, complaints)


def test_page_of_a_prefix_in_order_of_usernames_reads_no_other_users(planner: cursor) -> None:
    """They are neighbours in that order, behind tens of thousands, which no plan foresees."""
    filters = Filters(prefix=NamePrefix("user77", "user77"))
    for descending, side in product((False, True), (None, *Side)):
        shape = Shape(filters.names, Order("username", descending), side, counted=True)
        position = 0 if side is None else Position(side, "user7750", 7750)
        blocks = blocks_of(planner, list_statement(shape), binds(filters, position, 50))
        # 1,111 users, on 27 pages of the table, are found by two indexes up to three times.
        assert blocks < 1000, (descending, side)


def test_no_list_is_compiled_before_it_is_run(planner: cursor) -> None:
    """Compiling takes longer than any page, where PostgreSQL has it (the container has)."""
    for counted in (True, False):
        statement = list_statement(Shape(counted=counted))
        assert "JIT" not in explained(planner, statement, binds(Filters(), 0, 50), "ANALYZE, ")
