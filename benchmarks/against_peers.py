"""The service beside others of its kind: same contract, same features, same database."""

from benchmarks.bench import OVERHEAD_SECONDS, Bench, in_turn
from benchmarks.checks import compare
from benchmarks.plan import Effort
from benchmarks.targets import TARGETS
from benchmarks.workloads import (
    CREATION,
    GET_BY_ID,
    MIX,
    UPDATING,
    Workload,
    deep,
    page_of,
    uncached,
)

NAME = "peers"
USERS = 10_000
WORKLOADS: tuple[Workload, ...] = (
    page_of(10),
    page_of(100),
    uncached(USERS),
    deep(USERS),
    GET_BY_ID,
    CREATION,
    UPDATING,
    MIX,
)
# What there is to compile and to cache is in these.
WARM_UP = (uncached(USERS), CREATION, MIX)
# Where the 99th percentile is compared, also when little is measured.
CROWD = 50


def targets() -> list[str]:
    """Return the targets with the whole contract, the service first."""
    return [name for name in TARGETS if name != "before"]


def combinations(effort: Effort) -> list[tuple[Workload, int]]:
    """Return each workload with each number of clients that it is measured with."""
    crowd = [] if CROWD in effort.clients else [(page_of(10), CROWD), (GET_BY_ID, CROWD)]
    return [(each, clients) for each in WORKLOADS for clients in effort.clients] + crowd


def expected_seconds(effort: Effort) -> float:
    """Return how long ``run`` takes."""
    each = (effort.seconds + OVERHEAD_SECONDS) * effort.rounds * len(combinations(effort))
    return (each + (1 + OVERHEAD_SECONDS) * len(WARM_UP) + 5) * len(targets())


def run(bench: Bench) -> None:
    """Measure every workload on every target, target by target within each round."""
    database = bench.stand.database(USERS)
    with bench.serving_all(targets(), database, USERS) as servers:
        bench.stand.forget_created(database, USERS)
        compare(servers)
        for server in servers:
            for workload in WARM_UP:
                bench.warm_up(server, workload)
        for number in range(bench.effort.rounds):
            for workload, clients in combinations(bench.effort):
                bench.stand.forget_created(database, USERS)
                for server in in_turn(servers, number):
                    bench.measure(server, workload, clients=clients)
        bench.stand.forget_created(database, USERS)
        compare(servers)
