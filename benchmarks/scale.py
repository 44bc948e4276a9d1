"""More worker processes, free to use every core; load and databases stay on theirs."""

from collections.abc import Iterable
from contextlib import ExitStack

from benchmarks.bench import OVERHEAD_SECONDS, Bench, in_turn
from benchmarks.measure import Server
from benchmarks.plan import TURN_SECONDS, Effort
from benchmarks.processes import memory_mb
from benchmarks.workloads import GET_BY_ID, page_of

NAME = "workers"
TARGETS = ("ours",)
USERS = 10_000
WORKERS = (1, 2, 4)
CLIENTS = 50
WORKLOADS = (page_of(10), GET_BY_ID)


def expected_seconds(effort: Effort) -> float:
    """Return how long ``run`` takes."""
    turns = len(WORKLOADS) * (effort.turns * (TURN_SECONDS + OVERHEAD_SECONDS) + 1)
    return len(WORKERS) * effort.rounds * (turns + 2)


def run(bench: Bench) -> None:
    """Measure all numbers of workers in turn, on new processes in each round."""
    database = bench.stand.database(USERS)
    for turns in bench.effort.turns_by_round:
        bench.stand.forget_created(database, USERS)
        with ExitStack() as stack:
            servers = []
            for workers in WORKERS:
                served = bench.serving("ours", database, USERS, workers=workers, pinned=False)
                servers.append((workers, stack.enter_context(served)))
            _round(bench, servers, turns)


def _round(bench: Bench, servers: list[tuple[int, Server]], turns: Iterable[int]) -> None:
    for workload in WORKLOADS:
        for _, server in servers:
            bench.warm_up(server, workload)
    for number in turns:
        for workload in WORKLOADS:
            for workers, server in in_turn(servers, number):
                bench.measure(server, workload, clients=CLIENTS, workers=workers)
    for workers, server in servers:
        bench.results.add({"memory_mb": memory_mb(server.process.pid)}, workers=workers)
