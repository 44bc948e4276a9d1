"""The memory of the service: by the size of the table, and over many requests."""

from collections.abc import Sequence

from benchmarks.bench import OVERHEAD_SECONDS, Bench
from benchmarks.measure import Server, measure
from benchmarks.plan import Effort
from benchmarks.processes import memory_mb, peak_memory_mb
from benchmarks.targets import TargetFailed
from benchmarks.workloads import CREATION, MIX, Workload, page_of, uncached

NAME = "memory"
TARGETS = ("ours",)
USERS = 10_000
SMALLEST = 1_000
CLIENTS = 10
# Mostly cached pages, which are quick, so that a million requests take minutes.
TURN: tuple[Workload, ...] = (page_of(10), page_of(10), page_of(100), MIX)
# Everything once, so that what is only made when it is first needed is there: pools, memories.
WARM_UP: tuple[Workload, ...] = (page_of(10), page_of(100), uncached(USERS), CREATION, MIX)
SHORT_TURN = (page_of(100), MIX)
EXPECTED_PER_SECOND = 2_200
START_SECONDS = 2


def expected_seconds(effort: Effort) -> float:
    """Return how long ``run`` takes."""
    turn = (len(SHORT_TURN) + 1) * (1 + OVERHEAD_SECONDS) + START_SECONDS
    sizes = turn * (len(effort.growth_users) + 1) * effort.rounds
    return sizes + effort.requests_for_memory / EXPECTED_PER_SECOND


def run(bench: Bench) -> None:
    """Take the memory of a new process for each size, then of one after each turn of requests."""
    for _ in range(bench.effort.rounds):
        for users in (SMALLEST, *bench.effort.growth_users):
            _at(bench, users)
    database = bench.stand.database(USERS)
    bench.stand.forget_created(database, USERS)
    with bench.serving("ours", database, USERS) as server:
        answered = _turn(bench, server, WARM_UP, seconds=1)
        _note_memory(bench, server, answered)
        while answered < bench.effort.requests_for_memory:
            answered += _turn(bench, server, TURN, _seconds(bench.effort))
            answered += _turn(bench, server, (uncached(USERS), CREATION), seconds=1)
            _note_memory(bench, server, answered)


def _note_memory(bench: Bench, server: Server, answered: float) -> None:
    memory = memory_mb(server.process.pid)
    bench.results.add({"requests": answered, "memory_mb": memory}, part="over requests")


def _at(bench: Bench, users: int) -> None:
    database = bench.stand.database(users)
    bench.stand.forget_created(database, users)
    with bench.serving("ours", database, users) as server:
        _turn(bench, server, SHORT_TURN, seconds=1)
        bench.progress.step(f"memory with {users:,} users", 1 + START_SECONDS)
        measure(server, uncached(users), clients=CLIENTS, seconds=1)
        pid = server.process.pid
        memory = {"memory_mb": memory_mb(pid), "peak_memory_mb": peak_memory_mb(pid)}
        bench.results.add(memory, part="by size", users=users)


def _seconds(effort: Effort) -> int:
    """Return how long each workload of a turn takes, so that there are some twenty turns."""
    return max(1, effort.requests_for_memory // 200_000)


def _turn(bench: Bench, server: Server, turn: Sequence[Workload], seconds: int) -> float:
    """Ask for each workload once, and return how many requests were answered.

    Raise TargetFailed if none was.
    """
    answered = 0.0
    for workload in turn:
        title = f"memory, {workload.title}"
        bench.progress.step(title, seconds + OVERHEAD_SECONDS)
        figures = measure(server, workload, clients=CLIENTS, seconds=seconds)
        if figures["failed"]:
            bench.invalid(f"{title}: {figures['failed']:.0f} failed")
        answered += figures["handled"] or 0
    if not answered:
        raise TargetFailed(f"{server.name} answered nothing in a whole turn")
    return answered
