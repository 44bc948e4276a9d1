"""Growth: one request as the table grows, a write as Redis fills, memory over many requests."""

import itertools
import json
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from http.client import BAD_REQUEST, HTTPConnection, HTTPException
from urllib.parse import urlsplit

from benchmarks.comparisons import STORED
from benchmarks.load import CACHED, CREATE, FEW, MIX, UNCACHED, USERS, Request
from benchmarks.measure import Bench, in_turn, memory_mb, peak_memory_mb, run_load
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
KINDS = {
    "first": "first page with its total",
    "cursor": "page by cursor, far down",
    "deep": "page by number, far down",
    "get": "get by id",
    "email": "look-up by email",
    "create": "create",
}


class Client:
    """One client with one connection, and its endless requests of one kind.

    Redis is empty before each of them if ``emptying``. Its figures have ``labels``.
    """

    def __init__(self, server: Server, kind: str, *, emptying: bool, **labels: Label) -> None:
        self.labels: dict[str, Label] = {"workload": kind, **labels}
        self.times: list[float] = []
        self._server = server
        self._emptying = emptying
        self.connection = HTTPConnection(urlsplit(server.url).netloc, timeout=60)
        self._requests = self._endless(kind, server.users)

    def send_next(self, number: int) -> None:
        """Send the next requests, one after the other."""
        for request in itertools.islice(self._requests, number):
            self._send(request)

    def _send(self, request: Request) -> bytes:
        """Send a request, note its time, and return the body of the answer.

        Raises HTTPException for an answer that is not a success.
        """
        if self._emptying:
            self._server.redis.flushdb()
        headers = {"Content-Type": "application/json"} if request.body else {}
        began = time.perf_counter()
        self.connection.request(request.method, request.path, request.body or None, headers)
        response = self.connection.getresponse()
        body = response.read()
        self.times.append(time.perf_counter() - began)
        if response.status >= BAD_REQUEST:
            raise HTTPException(f"{request.method} {request.path}: {response.status}")
        return body

    def _endless(self, kind: str, users: int) -> Iterator[Request]:
        far_down = f"{FIRST_PAGE}&page={users * 9 // 100}"
        paths = itertools.cycle(self._cursor_paths(far_down) if kind == "cursor" else ())
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

    def _cursor_paths(self, path: str) -> Iterator[str]:
        """Yield the paths of consecutive pages after the page at ``path``."""
        for _ in range(CURSORS):
            page = json.loads(self._send(Request(path)))
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
                clients = [
                    Client(server, kind, emptying=True, users=server.users) for server in servers
                ]
                requests = DEEP_REQUESTS if kind == "deep" else bench.effort.growth_requests
                _ask(bench, clients, requests, number)
            for server in servers:
                memory = {"peak_memory_mb": peak_memory_mb(server.pid)}
                bench.results.add(memory, users=server.users)
            for keys in in_turn(bench.effort.redis_keys, number):
                _measure_write_beside(bench, servers[0], keys)


def _measure_write_beside(bench: Bench, server: Server, keys: int) -> None:
    server.redis.flushall()
    for begin in range(0, keys, KEYS_AT_ONCE):
        numbers = range(begin, min(begin + KEYS_AT_ONCE, keys))
        server.redis.mset({f"other:{number}": b"x" * 100 for number in numbers})
    client = Client(server, "create", emptying=False, keys=keys)
    _ask(bench, [client], bench.effort.growth_requests, 0)
    server.redis.flushall()


def _ask(bench: Bench, clients: Sequence[Client], requests: int, number: int) -> None:
    """Add the median time of so many requests of each client to the results."""
    failed = False
    try:
        for client in clients:
            client.send_next(max(AT_A_TIME, requests // 10))
            client.times.clear()
        for turn in range(requests // AT_A_TIME):
            for client in in_turn(clients, number + turn):
                client.send_next(AT_A_TIME)
    except HTTPException as error:
        bench.say(f"FAILED {error}")
        failed = True
    for client in clients:
        milliseconds = None if failed else statistics.median(client.times) * 1000
        bench.results.add({"ms": milliseconds, "failed": failed}, **client.labels)
        client.connection.close()


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
