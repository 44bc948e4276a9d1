"""Growth: one request as the table grows, a write as Redis fills, memory over many requests."""

import itertools
import json
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from http.client import HTTPException
from typing import NamedTuple

from benchmarks.comparisons import STORED
from benchmarks.load import CACHED, CREATE, FEW, MIX, UNCACHED, USERS, Request
from benchmarks.measure import Bench, Client, in_turn, memory_mb, peak_memory_mb, run_load
from benchmarks.results import Label
from benchmarks.stand import Server
from benchmarks.targets import OURS

FIRST_PAGE = f"{USERS}?per_page=10"
CURSORS = 50
# The servers take turns of so many requests, so that all meet the same moments of the machine.
AT_A_TIME = 5
# A page far down by number is slow at any size; fewer requests suffice.
DEEP_REQUESTS = 10
KEYS_AT_ONCE = 10_000
MEMORY_READINGS = 10
KINDS = ("first", "cursor", "deep", "get", "email", "create")


class Asked(NamedTuple):
    """A client, its endless requests, and the labels of its figures."""

    client: Client
    requests: Iterator[Request]
    labels: dict[str, Label]


def _requests(kind: str, client: Client, users: int) -> Iterator[Request]:
    """Yield requests of one kind without end."""
    far_down = f"{FIRST_PAGE}&page={users * 9 // 100}"
    paths = itertools.cycle(_cursor_paths(client, far_down) if kind == "cursor" else ())
    while True:
        user = random.randint(1, users)  # noqa: S311 -- no secret
        match kind:
            case "first":
                yield Request(FIRST_PAGE)
            case "deep":
                yield Request(far_down)
            case "cursor":
                yield Request(next(paths))
            case "get":
                yield Request(f"{USERS}/{user}")
            case "email":
                yield Request(f"{USERS}?email=user{user}@example.com")
            case "create":
                name = f"g{time.time_ns():x}"
                body = f'{{"username": "{name}", "email": "{name}@example.com"}}'
                yield Request(USERS, "POST", body)


def _cursor_paths(client: Client, path: str) -> Iterator[str]:
    """Yield the paths of consecutive pages after the page at ``path``."""
    for _ in range(CURSORS):
        page = json.loads(client.send(Request(path)))
        path = f"{FIRST_PAGE}&cursor={page['pagination']['next_cursor']}"
        yield path


def growth(bench: Bench) -> None:
    """Measure each kind of request at each table size, then writes beside each number of keys.

    One client, so that its time is that of a request and not of a queue. Redis is empty before each
    request, so that every page is read from the table. All sizes take turns.
    """
    for users in bench.effort.growth_users:
        bench.say(f"a table of {users:,} users")
        bench.stand.reset(users)
    for number in range(bench.effort.rounds):
        bench.say(f"round {number + 1} of {bench.effort.rounds}")
        with ExitStack() as stack:
            servers = [
                stack.enter_context(bench.stand.serve(OURS, users))
                for users in bench.effort.growth_users
            ]
            for kind in KINDS:
                _measure_sizes(bench, servers, kind, number)
            for server in servers:
                memory = {"peak_memory_mb": peak_memory_mb(server.pid)}
                bench.results.add(memory, users=server.users)
            for keys in in_turn(bench.effort.redis_keys, number):
                _measure_write_beside(bench, servers[0], keys)


def _measure_sizes(bench: Bench, servers: Sequence[Server], kind: str, number: int) -> None:
    requests = DEEP_REQUESTS if kind == "deep" else bench.effort.growth_requests
    with ExitStack() as stack:
        asked = []
        for server in servers:
            client = stack.enter_context(closing(Client(server, emptying=True)))
            labels: dict[str, Label] = {"workload": kind, "users": server.users}
            asked.append(Asked(client, _requests(kind, client, server.users), labels))
        _ask(bench, asked, requests, number)


def _measure_write_beside(bench: Bench, server: Server, keys: int) -> None:
    server.redis.flushall()
    for begin in range(0, keys, KEYS_AT_ONCE):
        numbers = range(begin, min(begin + KEYS_AT_ONCE, keys))
        server.redis.mset({f"other:{number}": b"x" * 100 for number in numbers})
    with closing(Client(server, emptying=False)) as client:
        labels: dict[str, Label] = {"workload": "create", "keys": keys}
        asked = [Asked(client, _requests("create", client, server.users), labels)]
        _ask(bench, asked, bench.effort.growth_requests, 0)
    server.redis.flushall()


def _ask(bench: Bench, asked: Sequence[Asked], requests: int, number: int) -> None:
    """Add the median time of so many requests of each client to the results."""
    try:
        for each in asked:
            each.client.send_all(itertools.islice(each.requests, max(AT_A_TIME, requests // 10)))
            each.client.forget_times()
        for turn in range(requests // AT_A_TIME):
            for each in in_turn(asked, number + turn):
                each.client.send_all(itertools.islice(each.requests, AT_A_TIME))
    except HTTPException as error:
        bench.say(f"FAILED {error}")
        for each in asked:
            bench.results.add({"ms": None, "failed": 1}, **each.labels)
    else:
        for each in asked:
            bench.results.add({"ms": each.client.median_ms(), "failed": 0}, **each.labels)


def memory(bench: Bench) -> None:
    """Note the memory of one server again and again while it answers very many requests."""
    bench.stand.reset(STORED)
    with bench.stand.serve(OURS, STORED) as server:
        answered = 0
        while answered < bench.effort.memory_requests:
            goal = answered + bench.effort.memory_requests / MEMORY_READINGS
            failed = 0
            while answered < goal:
                # Mostly cached pages, because they are quick.
                for workload in (CACHED, CACHED, CACHED, MIX, UNCACHED, CREATE):
                    seen, _ = run_load(server, workload, clients=FEW, seconds=1)
                    answered += seen.requests
                    failed += seen.failed
            used = memory_mb(server.pid)
            bench.say(f"{answered:,} requests, {failed} failed: {used:.1f} MB")
            bench.results.add({"requests": answered, "memory_mb": used, "failed": failed})
