"""One measurement: load on one server, and what it cost there."""

import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import redis

from benchmarks.load import Load, load
from benchmarks.processes import cpu_seconds
from benchmarks.workloads import Workload

# Shorter than the time that the fastest target (4,200 requests/s) takes for all 1,000 pages of a
# cycle; and long, since what is under way when Redis is emptied is no ordinary miss: what a target
# knows of its cache, as our generation, is gone too.
EMPTY_EVERY_SECONDS = 0.2
# Of the requests that must not be answered by the cache, as many may be by accident.
HITS_BY_ACCIDENT = 0.02
# A server that uses less than so much of a core, for so long, is idle.
IDLE_SHARE, IDLE_SECONDS = 0.1, 0.05
SETTLE_SECONDS = 120
CLOSE_WAIT = "08"  # in /proc/net/tcp
FIGURES = ("handled", "per_second", "p50_ms", "p99_ms", "cpu_us", "busy")


@dataclass(frozen=True, slots=True)
class Server:
    """A target that serves: where, by which processes, on which databases.

    ``redis`` is a connection to its Redis database, opened before anything is counted there.
    """

    name: str
    url: str
    process: subprocess.Popen[bytes]
    database_url: str
    redis_url: str
    redis: redis.Redis
    users: int


def measure(
    server: Server, workload: Workload, *, clients: int, seconds: int, settling: bool = True
) -> dict[str, float | None]:
    """Return the figures of one round; without any but ``failed`` if a request failed.

    Unless ``settling``, what the clients had under way when the load ended is not waited for.

    ``cpu_us`` is the CPU time of the server's processes per request, in µs, and ``busy`` the share
    of one core that this is: far below 1, something other than the server set the pace.
    """
    misses, cpu = misses_of(server), cpu_seconds(server.process.pid)
    with _emptying(server, when=workload.pages > 0):
        seen = load(server.url, workload, users=server.users, clients=clients, seconds=seconds)
    if settling:
        settle(server)
    used = cpu_seconds(server.process.pid) - cpu
    hits = max(0, seen.requests - misses_of(server) + misses) if workload.pages else 0
    tolerated = seen.requests * HITS_BY_ACCIDENT
    failed = seen.failed + (hits if hits > tolerated else 0)
    # Each client had one more under way when the load ended, which the server answered too.
    handled = seen.requests + (clients if settling else 0)
    return figures_of(seen, used=used, clients=clients, handled=handled, failed=failed)


def settle(server: Server) -> None:
    """Wait until a server is idle: it may still be answering those who have gone."""
    port = urlsplit(server.url).port or 0
    ended = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < ended:
        used = cpu_seconds(server.process.pid)
        time.sleep(IDLE_SECONDS)
        used = cpu_seconds(server.process.pid) - used
        if used < IDLE_SECONDS * IDLE_SHARE and not has_clients_that_have_gone(port):
            return


def has_clients_that_have_gone(port: int) -> bool:
    """Tell whether a server of this IPv4 port has connections whose other end is closed already.

    Without this, one that gets no CPU, or waits for a database that gets none, would seem idle.
    """
    lines = Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    connections = (line.split()[1:4] for line in lines)
    return any(
        local.endswith(f":{port:04X}") and state == CLOSE_WAIT for local, _, state in connections
    )


def misses_of(server: Server) -> int:
    """Return how many keys were asked of Redis that were not there, since it was started."""
    return int(server.redis.info("stats")["keyspace_misses"])


def figures_of(
    seen: Load, *, used: float, clients: int, handled: int, failed: int = 0
) -> dict[str, float | None]:
    """Return the figures of a round in which ``handled`` requests took ``used`` s of CPU."""
    # Nothing answered in all that time is a failure too.
    if failed or not seen.requests:
        return {**dict.fromkeys(FIGURES), "failed": max(failed, 1)}
    # Where not everybody had a turn, the times would be those of the lucky ones.
    had_turns = seen.requests >= clients
    return {
        "handled": handled,
        "per_second": seen.per_second,
        "p50_ms": seen.p50_ms if had_turns else None,
        "p99_ms": seen.p99_ms if had_turns else None,
        "cpu_us": used / handled * 1e6,
        "busy": used / seen.seconds * seen.requests / handled,
        "failed": 0,
    }


@contextmanager
def _emptying(server: Server, *, when: bool) -> Iterator[None]:
    """Empty the Redis database of a server, which an earlier round may have filled, and again."""
    ended = threading.Event()

    def empty() -> None:
        while not ended.wait(EMPTY_EVERY_SECONDS):
            server.redis.flushdb()

    thread = threading.Thread(target=empty)
    if when:
        server.redis.flushdb()
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if when:
            thread.join()
