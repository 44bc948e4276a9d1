"""Every list that the API allows is read by indexes, as PostgreSQL plans it for 100,000 users."""

from collections.abc import Iterator
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from itertools import chain, combinations, product
from typing import Any, get_args

import pytest
from psycopg2.extensions import cursor

from tests.population import populate
from user_service.database.pool import Database
from user_service.database.user_lists import (
    Shape,
    binds,
    binds_together,
    estimate_statement,
    list_statement,
    statement_together,
)
from user_service.domain.positions import Filters, Order, Position, Side, SortColumn

USERS = 100_000
BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
MIDDLE = {
    "id": USERS // 2,
    "username": f"user{USERS // 2}",
    "created_at": BEGINNING + timedelta(seconds=USERS // 2),
    "updated_at": BEGINNING + timedelta(seconds=USERS // 2),
}
# Of each filter a value that lets everybody pass (as far as it can), and one that hardly anybody.
WIDE = {
    "ids": list(range(1, 101)),
    "username": "user5",
    "email": "user5@example.com",
    "prefix": "u",
    "created_since": BEGINNING,
    "created_before": BEGINNING + timedelta(days=900),
    "updated_since": BEGINNING,
}
NARROW = {
    "ids": [7],
    "username": "user5",
    "email": "user5@example.com",
    "prefix": "user77",
    "created_since": BEGINNING + timedelta(seconds=USERS - 50),
    "created_before": BEGINNING + timedelta(seconds=50),
    "updated_since": BEGINNING + timedelta(seconds=USERS - 50),
}
NAMES = [field.name for field in fields(Filters)]
ORDERS = [Order(by, descending) for by in get_args(SortColumn) for descending in (False, True)]
INDEX_OF = {
    "id": "users_pkey",
    "username": "users_username_key",
    "created_at": "users_created_at_key",
    "updated_at": "users_updated_at_key",
}


@pytest.fixture
def planner(database_url: str) -> Iterator[cursor]:
    database = Database(database_url, size=1, statement_timeout=60)
    populate(database, USERS)
    with database.read() as cursor:
        cursor.execute("ANALYZE users")
        yield cursor
        cursor.execute("TRUNCATE users RESTART IDENTITY")
    database.close()


def every_filter(values: dict[str, Any]) -> Iterator[Filters]:
    subsets = (combinations(NAMES, size) for size in range(len(NAMES) + 1))
    for names in chain.from_iterable(subsets):
        yield Filters(**{name: values[name] for name in names})


def every_position(order: Order) -> list[Position | int]:
    beside = [Position(side, MIDDLE[order.by], USERS // 2) for side in Side]  # type: ignore[arg-type]
    return [0, USERS * 9 // 10, *beside]


def scans_of(planner: cursor, statement: str, bound: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the nodes of the plan for ``statement`` that read users."""
    setting, _, query = statement.rpartition(";")
    planner.execute(f"{setting or 'SELECT'}; EXPLAIN (FORMAT JSON) {query}", bound)
    ((explained,),) = planner.fetchone() or ()
    nodes = [explained["Plan"]]
    while nodes:
        node = nodes.pop()
        nodes += node.get("Plans", [])
        if node.get("Relation Name") == "users" or node.get("Index Name", "").startswith("users_"):
            yield node


def complaint_about(scan: dict[str, Any], order: Order) -> str | None:
    """Return what is wrong with how ``scan`` reads users."""
    index = scan.get("Index Name")
    if scan["Node Type"] == "Seq Scan":
        return "sequential scan"
    if index is None or "Index Cond" in scan:
        return None
    # From one end of an index on, until the page is full: only of use in the list's own order, or
    # to see that there is anybody at all.
    if index in (INDEX_OF[order.by], "users_pkey", "users_count_pkey"):
        return None
    return f"all of {index}"


@pytest.mark.parametrize("values", [WIDE, NARROW], ids=["wide", "narrow"])
def test_no_list_is_read_by_a_sequential_scan(planner: cursor, values: dict[str, Any]) -> None:
    complaints, plans = [], 0
    for filters, order in product(every_filter(values), ORDERS):
        for position in every_position(order):
            side = position.side if isinstance(position, Position) else None
            # Counted, since the plan then holds all that it holds without the count.
            bound = binds(filters, position, 50)
            for even_if_empty in (False, True):
                shape = Shape(filters.names, order, side, counted=True)
                statement = list_statement(shape, even_if_empty=even_if_empty)
                plans += 1
                for scan in scans_of(planner, statement, bound):
                    complaint = complaint_about(scan, order)
                    complaints += [(complaint, filters.names, order, position)] if complaint else []
    print(f"{plans} plans")
    assert complaints == []
    assert plans == 2 ** len(NAMES) * len(ORDERS) * (2 + len(Side)) * 2


def test_estimate_is_a_plan_and_no_scan(planner: cursor) -> None:
    for filters in every_filter(WIDE):
        planner.execute(estimate_statement(filters.names), binds(filters, 0, 50))
        ((explained,),) = planner.fetchone() or ()
        assert "Actual Rows" not in explained["Plan"]
        assert explained["Plan"]["Plan Rows"] >= 1


def test_page_beside_a_place_reads_hardly_more_than_it_shows(planner: cursor) -> None:
    for order, side in product(ORDERS, (Side.AFTER, Side.BEFORE)):
        statement = list_statement(Shape((), order, side))
        setting, _, query = statement.rpartition(";")
        bound = binds(Filters(), Position(side, MIDDLE[order.by], USERS // 2), 50)  # type: ignore[arg-type]
        planner.execute(f"{setting}; EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {query}", bound)
        ((explained,),) = planner.fetchone() or ()
        # 51 rows by the index, each on another page of the table at worst, and the way down.
        blocks = explained["Plan"]["Shared Hit Blocks"] + explained["Plan"]["Shared Read Blocks"]
        assert blocks < 80, (order, side)


def test_pages_that_are_read_together_read_hardly_more_than_they_show(planner: cursor) -> None:
    """Each by the plan that it has alone, though the planner is asked for them all at once."""
    planner.execute("VACUUM users")  # from then on an index knows who is visible
    for order, side in product(ORDERS, (None, *Side)):
        shape = Shape((), order, side, counted=True, far=side is None)
        place = 2000 if side is None else Position(side, MIDDLE[order.by], USERS // 2)  # type: ignore[arg-type]
        bound = binds_together([(place, 50), (place, 10), (place, 5)])
        setting, _, query = statement_together(shape, 3).rpartition(";")
        planner.execute(f"{setting}; EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {query}", bound)
        ((explained,),) = planner.fetchone() or ()
        blocks = explained["Plan"]["Shared Hit Blocks"] + explained["Plan"]["Shared Read Blocks"]
        assert blocks < 350, (order, side, blocks)


def test_page_far_down_passes_over_the_others_in_the_index(planner: cursor) -> None:
    """Not in the table, where in an order other than the table's each of them is on another page.

    With 90,000 before it in order of usernames: 65,000 blocks by their place in the table.
    """
    planner.execute("VACUUM users")  # from then on an index knows who is visible
    for order in ORDERS:
        statement = list_statement(Shape((), order, counted=True, far=True))
        setting, _, query = statement.rpartition(";")
        bound = binds(Filters(), USERS * 9 // 10, 50)
        planner.execute(f"{setting}; EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {query}", bound)
        ((explained,),) = planner.fetchone() or ()
        blocks = explained["Plan"]["Shared Hit Blocks"] + explained["Plan"]["Shared Read Blocks"]
        assert blocks < 1500, (order, blocks)
        complaints = [complaint_about(scan, order) for scan in scans_of(planner, statement, bound)]
        assert not any(complaints), (order, complaints)


def test_page_of_a_prefix_in_order_of_usernames_reads_nobody_else(planner: cursor) -> None:
    """They stand together in that order, behind tens of thousands, which no plan foresees."""
    filters = Filters(prefix="user77")
    for descending, side in product((False, True), (None, *Side)):
        shape = Shape(filters.names, Order("username", descending), side, counted=True)
        statement = list_statement(shape)
        setting, _, query = statement.rpartition(";")
        position = 0 if side is None else Position(side, "user7750", 7750)
        planner.execute(
            f"{setting}; EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {query}",
            binds(filters, position, 50),
        )
        ((explained,),) = planner.fetchone() or ()
        # 1,111 users, on 27 pages of the table, are found by two indexes up to three times.
        blocks = explained["Plan"]["Shared Hit Blocks"] + explained["Plan"]["Shared Read Blocks"]
        assert blocks < 1000, (descending, side, blocks)


def test_no_list_is_compiled_before_it_is_run(planner: cursor) -> None:
    """Compiling takes longer than any page, where PostgreSQL has it (the container has)."""
    for counted in (True, False):
        setting, _, query = list_statement(Shape(counted=counted)).rpartition(";")
        bound = binds(Filters(), 0, 50)
        planner.execute(f"{setting}; EXPLAIN (ANALYZE, FORMAT JSON) {query}", bound)
        ((explained,),) = planner.fetchone() or ()
        assert "JIT" not in explained
