"""What a section works with: the stand, the effort, and servers of every target."""

import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import redis

from benchmarks.figures import Label, Results
from benchmarks.measure import Server, measure
from benchmarks.plan import TURN_SECONDS, Effort, Progress
from benchmarks.stand import Stand
from benchmarks.targets import TARGETS, Target, serving
from benchmarks.workloads import Workload

T = TypeVar("T")

# What a measurement takes beyond the load itself: starting wrk, reading counters.
OVERHEAD_SECONDS = 0.2


@dataclass(slots=True)
class Bench:
    """One section of a run, and its results so far."""

    stand: Stand
    effort: Effort
    progress: Progress
    results: Results = field(default_factory=Results)
    invalid_rounds: int = 0

    @contextmanager
    def serving(
        self,
        target: Target | str,
        database_url: str,
        users: int,
        *,
        workers: int = 1,
        pinned: bool = True,
    ) -> Iterator[Server]:
        """Serve a target with a Redis database of its own; one worker on the services' core."""
        target = TARGETS[target] if isinstance(target, str) else target
        redis_url = self.stand.redis_database()
        core, every_core = self.stand.cores.service, self.stand.cores.all
        cpu = {core} if pinned and core is not None else set(every_core)
        with (
            redis.Redis.from_url(redis_url) as client,
            serving(target, database_url, redis_url, workers=workers, cpu=cpu) as served,
        ):
            client.ping()
            yield Server(
                target.name,
                served.url,
                served.process,
                database_url,
                redis_url,
                client,
                users,
            )

    @contextmanager
    def serving_all(
        self, targets: Sequence[str], database_url: str, users: int
    ) -> Iterator[list[Server]]:
        """Serve several targets at once, on the same database."""
        with ExitStack() as stack:
            yield [stack.enter_context(self.serving(each, database_url, users)) for each in targets]

    def measure(
        self,
        server: Server,
        workload: Workload,
        *,
        clients: int,
        seconds: int | None = None,
        settling: bool = True,
        **labels: Label,
    ) -> dict[str, float | None]:
        """Add one turn of ``workload`` on ``server`` to the results, and return its figures."""
        seconds = seconds or TURN_SECONDS
        title = f"{server.name}: {workload.title}, clients: {clients}"
        self.progress.step(title, seconds + OVERHEAD_SECONDS)
        figures = measure(server, workload, clients=clients, seconds=seconds, settling=settling)
        if figures["failed"]:
            self.invalid(f"{title}: {figures['failed']:.0f} failed")
        names: dict[str, Label] = {
            "target": server.name,
            "workload": workload.name,
            "clients": clients,
        }
        self.results.add(figures, **names, **labels)
        return figures

    def invalid(self, why: str) -> None:
        """Say loudly that a round does not count."""
        self.invalid_rounds += 1
        self.progress.warn(f"INVALID ROUND: {why}")

    def warm_up(self, server: Server, workload: Workload, *, clients: int = 10) -> None:
        """Load a server for a second without taking figures: compilers and caches get ready."""
        self.progress.step(f"{server.name}: warm-up, {workload.title}", 1 + OVERHEAD_SECONDS)
        measure(server, workload, clients=clients, seconds=1)


def in_turn(what: Sequence[T], number: int) -> list[T]:
    """Return all in the order of turn ``number``: at random, so that none always follows another.

    The same in every run.
    """
    return random.Random(number).sample(what, len(what))  # noqa: S311 -- no secret
