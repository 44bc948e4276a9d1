"""More worker processes, free to use every core; load and databases stay on theirs."""

from contextlib import ExitStack

from benchmarks.bench import OVERHEAD_SECONDS, Bench, in_turn
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
    each = TURN_SECONDS + OVERHEAD_SECONDS
    return len(WORKERS) * (len(WORKLOADS) * (len(effort.turns_of_all_rounds) * each + 1) + 2)


def run(bench: Bench) -> None:
    """Measure all numbers of workers in turn."""
    database = bench.stand.database(USERS)
    bench.stand.forget_created(database, USERS)
    with ExitStack() as stack:
        servers = []
        for workers in WORKERS:
            served = bench.serving("ours", database, USERS, workers=workers, pinned=False)
            servers.append((workers, stack.enter_context(served)))
        for workload in WORKLOADS:
            for _, server in servers:
                bench.warm_up(server, workload)
        for number in bench.effort.turns_of_all_rounds:
            for workload in WORKLOADS:
                for workers, server in in_turn(servers, number):
                    bench.measure(server, workload, clients=CLIENTS, workers=workers)
        for workers, server in servers:
            memory = memory_mb(server.process.pid)
            bench.results.add({"memory_mb": memory}, workers=workers)
