"""Measurements: a load on one server, and the use of its processes."""

import random
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httpx

from benchmarks.load import CREATE, FEW, MIX, UNCACHED, Load, Workload, load
from benchmarks.results import Label, Results
from benchmarks.stand import Server, Stand
from dev.processes import wait_until

T = TypeVar("T")

# The fastest target needs longer than this for all 1,000 pages of an uncached workload.
EMPTY_EVERY_SECONDS = 0.2
# A larger share of cache hits makes a round of an uncached workload invalid.
TOLERATED_HITS = 0.02
# A server is idle while it uses less than this share of a core.
IDLE_SHARE, IDLE_SECONDS, SETTLE_SECONDS = 0.1, 0.05, 120


@dataclass(frozen=True, slots=True)
class Effort:
    """The sizes of a run. Durations are whole seconds, because wrk takes no others."""

    rounds: int
    seconds: int
    crowd_seconds: int
    list_users: tuple[int, ...]
    growth_users: tuple[int, ...]
    growth_requests: int
    redis_keys: tuple[int, ...]
    memory_requests: int


@dataclass(slots=True)
class Bench:
    """One section of a run with its results so far."""

    stand: Stand
    effort: Effort
    results: Results
    began: float

    def say(self, text: str) -> None:
        """Show progress on standard error."""
        minutes, seconds = divmod(int(time.monotonic() - self.began), 60)
        print(f"[{minutes}:{seconds:02}] {text}", file=sys.stderr, flush=True)

    def measure(
        self, server: Server, workload: Workload, *, clients: int, seconds: int, **labels: Label
    ) -> Load:
        """Add one turn of ``workload`` to the results and return wrk's observations."""
        seen, busy = run_load(server, workload, clients=clients, seconds=seconds)
        title = f"{server.target.name}: {workload.title}, {clients} clients"
        if seen.failed:
            self.say(f"{title}: FAILED {seen.failed} of {seen.requests} requests")
        else:
            self.say(f"{title}: {seen.requests / seen.seconds:,.0f} requests/s")
        valid = not seen.failed
        figures = {
            "per_second": seen.requests / seen.seconds if valid else None,
            # With fewer answers than clients, the times would be those of a lucky few.
            "p99_ms": seen.p99_ms if valid and seen.requests >= clients else None,
            "busy": busy if valid else None,
            "failed": seen.failed,
        }
        names: dict[str, Label] = {"workload": workload.name, "clients": clients}
        self.results.add(figures, target=server.target.name, **names, **labels)
        return seen


def run_load(
    server: Server, workload: Workload, *, clients: int, seconds: int
) -> tuple[Load, float]:
    """Load a server; return wrk's observations and the share of a core that the server used.

    Returns when the server is idle again.
    """
    if workload.prepared:
        # Otherwise the first requests, all at once, would be a stampede.
        url, headers = server.url + workload.prepared, server.target.headers
        httpx.get(url, headers=headers, timeout=60, verify=False).raise_for_status()  # noqa: S501
    misses, cpu = _misses(server), cpu_seconds(server.pid)
    with _emptied_again_and_again(server) if workload.uncached else nullcontext():
        seen = load(
            server.url,
            workload,
            users=server.users,
            clients=clients,
            seconds=seconds,
            headers=server.target.headers,
        )
    busy = (cpu_seconds(server.pid) - cpu) / seen.seconds
    _settle(server)
    failed = seen.failed or int(seen.requests == 0)
    if workload.uncached:
        hits = seen.requests - (_misses(server) - misses)
        failed += hits if hits > seen.requests * TOLERATED_HITS else 0
    return Load(seen.requests, seen.seconds, seen.p99_ms, failed), busy


def warm_up(server: Server) -> None:
    """Let a server compile and connect whatever it does lazily."""
    for workload in (UNCACHED, CREATE, MIX):
        run_load(server, workload, clients=FEW, seconds=1)


def in_turn(what: Sequence[T], number: int) -> list[T]:
    """Return everything in a random order that depends on ``number`` alone."""
    return random.Random(number).sample(what, len(what))  # noqa: S311 -- no secret


@contextmanager
def _emptied_again_and_again(server: Server) -> Iterator[None]:
    """Empty the Redis database of a server at the beginning and every fifth of a second."""
    ended = threading.Event()

    def empty() -> None:
        server.redis.flushdb()
        while not ended.wait(EMPTY_EVERY_SECONDS):
            server.redis.flushdb()

    thread = threading.Thread(target=empty)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _misses(server: Server) -> int:
    """Return how many keys Redis was asked for and did not have, since its start."""
    return int(server.redis.info("stats")["keyspace_misses"])


def _settle(server: Server) -> None:
    """Wait until a server has finished the requests of clients that are gone."""

    def is_idle() -> bool:
        before = cpu_seconds(server.pid)
        time.sleep(IDLE_SECONDS)
        return cpu_seconds(server.pid) - before <= IDLE_SECONDS * IDLE_SHARE

    wait_until(is_idle, SETTLE_SECONDS)


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process and its descendants in s.

    The clock of another process has the number that clock_getcpuclockid(3) computes; unlike
    /proc/PID/stat it counts nanoseconds.
    """
    total = 0.0
    for each in process_tree(pid):
        with suppress(OSError):  # the process ended in between
            total += time.clock_gettime(~each << 3 | 2)
    return total


def memory_mb(pid: int) -> float:
    """Return the memory of a process and its descendants in MB; shared pages count once."""
    return sum(_megabytes(process_tree(pid), "smaps_rollup", "Pss:"))


def peak_memory_mb(pid: int) -> float:
    """Return the largest resident size that a process of the tree has ever had, in MB."""
    return max(_megabytes(process_tree(pid), "status", "VmHWM:"), default=0.0)


def process_tree(pid: int) -> list[int]:
    """Return a process and its descendants, as far as they exist."""
    children: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            children += map(int, (task / "children").read_text(encoding="ascii").split())
    return [pid, *(each for child in children for each in process_tree(child))]


def _megabytes(pids: Sequence[int], file: str, name: str) -> Iterator[float]:
    for pid in pids:
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/{file}").read_text(encoding="utf-8").splitlines():
                if line.startswith(name):
                    yield int(line.split()[1]) * 1024 / 1e6
