"""What a request costs as the table grows, and a write as Redis fills.

One client at a time, so that what is measured is the request and not a queue; Redis is emptied
before each, so that every page is read from the table. All sizes are up at once, in databases and
processes of their own, and are asked in turn; by new processes in each round, since two of the
same program differ by a tenth for as long as they live. The statements are measured alone too: in
all that surrounds them, one that takes twice as long would hardly be seen.
"""

import itertools
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from typing import NamedTuple

from benchmarks.bench import Bench, in_turn
from benchmarks.figures import Label
from benchmarks.latency import Client, Failed
from benchmarks.measure import Server
from benchmarks.plan import Effort
from benchmarks.statements import sent_alone, statements_of
from benchmarks.workloads import USERS, Request

NAME = "growth"
TARGETS = ("ours",)
PER_PAGE = 10
CURSORS = 50
# A page far down reads all that comes before it, which takes long; fewer say enough.
FEWER = 10
AT_A_TIME = 5
POPULATE_SECONDS_PER_USER = 2.5e-5
FILL_SECONDS_PER_KEY = 3e-6
START_SECONDS = 2
KEYS_AT_ONCE = 10_000

# Statements that are measured alone, by the workloads that send them.
ALONE = ("uncached", "get")
ALONE_SECONDS = 0.5
STATEMENTS_SECONDS = 3

FAILED: dict[str, float | None] = {"p50_ms": None, "p99_ms": None, "cpu_us": None, "failed": 1}

_unique = itertools.count()


class Asked(NamedTuple):
    """Who asks, for what, and what the figures are labelled with."""

    client: Client
    requests: Iterator[Request]
    labels: dict[str, Label]


def first_page(_: Client, __: int) -> Iterator[Request]:
    """Ask for the first page, with its exact total."""
    while True:
        yield Request(f"{USERS}?page=1&per_page={PER_PAGE}")


def deep_page(_: Client, users: int) -> Iterator[Request]:
    """Ask for a page by number, nine tenths down."""
    page = users * 9 // 10 // PER_PAGE
    while True:
        yield Request(f"{USERS}?page={page}&per_page={PER_PAGE}")


def cursor_page(client: Client, users: int) -> Iterator[Request]:
    """Ask for page after page by cursor, from nine tenths down."""
    page = client.json(f"{USERS}?page={users * 9 // 10 // PER_PAGE}&per_page={PER_PAGE}")
    cursors: list[str] = []
    for _ in range(CURSORS):
        cursors.append(page["pagination"]["next_cursor"])
        page = client.json(f"{USERS}?cursor={cursors[-1]}&per_page={PER_PAGE}")
    while True:
        yield from (Request(f"{USERS}?cursor={each}&per_page={PER_PAGE}") for each in cursors)


def by_id(_: Client, users: int) -> Iterator[Request]:
    """Ask for one user by id, another each time."""
    while True:
        yield Request(f"{USERS}/{random.randint(1, users)}")  # noqa: S311 -- no secret


def by_email(_: Client, users: int) -> Iterator[Request]:
    """Look one user up by address, another each time."""
    while True:
        yield Request(f"{USERS}?email=user{random.randint(1, users)}@example.com")  # noqa: S311


def creation(_: Client, __: int) -> Iterator[Request]:
    """Create a user, which invalidates the pages."""
    while True:
        name = f"g{time.time_ns():x}n{next(_unique)}"
        body = f'{{"username": "{name}", "email": "{name}@example.com"}}'
        yield Request(USERS, "POST", body)


REQUESTS = {
    "first": first_page,
    "deep": deep_page,
    "cursor": cursor_page,
    "get": by_id,
    "email": by_email,
    "create": creation,
}


def expected_seconds(effort: Effort) -> float:
    """Return how long ``run`` takes."""
    rounds, sizes = effort.rounds, len(effort.growth_users)
    populate = sum(effort.growth_users) * POPULATE_SECONDS_PER_USER
    starts = sizes * (rounds * START_SECONDS + STATEMENTS_SECONDS)
    requests = rounds * sizes * len(REQUESTS) * _seconds(effort)
    statements = rounds * sizes * (len(ALONE) * ALONE_SECONDS + 1)
    writes = rounds * sum(_keys_seconds(effort, number) for number in effort.redis_keys)
    return populate + starts + requests + statements + writes


def run(bench: Bench) -> None:
    """Measure each kind of request at each size, then writes beside each number of keys."""
    databases = {}
    for users in bench.effort.growth_users:
        bench.progress.step(f"a table of {users:,} users", users * POPULATE_SECONDS_PER_USER)
        databases[users] = bench.stand.database(users)
    statements = {users: statements_of(bench, url) for users, url in databases.items()}
    for number in range(bench.effort.rounds):
        with ExitStack() as stack:
            servers = []
            for users, database in databases.items():
                bench.progress.step(f"serving {users:,} users", START_SECONDS)
                servers.append(stack.enter_context(bench.serving("ours", database, users)))
            for kind in REQUESTS:
                _measure(bench, servers, kind, turn=number)
            for server in in_turn(servers, number):
                _statements_alone(bench, server, statements[server.users])
    users, database = next(iter(databases.items()))
    with bench.serving("ours", database, users) as server:
        for number in range(bench.effort.rounds):
            for keys in in_turn(bench.effort.redis_keys, number):
                _write_beside(bench, server, keys)


def _measure(bench: Bench, servers: list[Server], kind: str, turn: int) -> None:
    bench.progress.step(kind, _seconds(bench.effort) * len(servers))
    number = FEWER if kind == "deep" else bench.effort.growth_requests
    with ExitStack() as stack:
        asked = []
        for server in servers:
            client = stack.enter_context(closing(Client(server, emptying=True)))
            labels: dict[str, Label] = {"users": server.users, "workload": kind}
            asked.append(Asked(client, REQUESTS[kind](client, server.users), labels))
        _ask(bench, asked, number, turn)


def _statements_alone(bench: Bench, server: Server, statements: dict[str, list[str]]) -> None:
    bench.progress.step("statements, alone", len(ALONE) * ALONE_SECONDS + 1)
    chosen = {name: statements[name] for name in ALONE}
    for name, figures in sent_alone(bench, server.database_url, chosen, ALONE_SECONDS).items():
        bench.results.add(figures, target="psycopg2", workload=name, users=server.users)


def _write_beside(bench: Bench, server: Server, keys: int) -> None:
    bench.progress.step(f"writes beside {keys:,} keys", _keys_seconds(bench.effort, keys))
    server.redis.flushall()
    _fill(server, keys)
    with closing(Client(server, emptying=False)) as client:
        labels: dict[str, Label] = {"keys": keys, "workload": "create"}
        asked = [Asked(client, creation(client, server.users), labels)]
        _ask(bench, asked, bench.effort.growth_requests)
    server.redis.flushall()


def _ask(bench: Bench, asked: Sequence[Asked], number: int, turn: int = 0) -> None:
    """Ask all for ``number`` requests, some at a time, so that each meets the same machine.

    It may be half as fast for a second: whole measurements in turn differed by a third.
    """
    try:
        for each in asked:
            each.client.warm_up(itertools.islice(each.requests, max(3, number // 10)))
        for some in range(number // AT_A_TIME):
            for each in in_turn(asked, turn + some):
                each.client.count(itertools.islice(each.requests, AT_A_TIME))
    except Failed as error:
        bench.invalid(str(error))
        figures = [FAILED for _ in asked]
    else:
        figures = [{**each.client.figures(), "failed": 0} for each in asked]
    for each, of_one in zip(asked, figures, strict=True):
        bench.results.add(of_one, **each.labels)


def _fill(server: Server, keys: int) -> None:
    for begin in range(0, keys, KEYS_AT_ONCE):
        some = range(begin, min(begin + KEYS_AT_ONCE, keys))
        server.redis.mset({f"other:{number}": b"x" * 100 for number in some})


def _seconds(effort: Effort) -> float:
    return effort.growth_requests * 0.004


def _keys_seconds(effort: Effort, keys: int) -> float:
    return keys * FILL_SECONDS_PER_KEY + effort.growth_requests * 0.004
