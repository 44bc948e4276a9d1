"""The service beside others of its kind: same contract, same features, same database."""

from collections.abc import Sequence

import httpx

from benchmarks import targets
from benchmarks.bench import OVERHEAD_SECONDS, Bench, in_turn
from benchmarks.checks import AnswersDiffer, compare
from benchmarks.conformance import conformance
from benchmarks.measure import Server
from benchmarks.plan import CROWD_SECONDS, TURN_SECONDS, Effort
from benchmarks.targets import OURS, PEERS
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
from tests.servers import Servers

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
CLIENTS = 10
# With so many, where the 99th percentile is compared.
CROWD = 50
ALONE = 1
# The whole contract, the service first.
TARGETS = (*OURS, *PEERS)
CONFORMANCE_SECONDS = 3
START_SECONDS = 2


def named(names: Sequence[str]) -> list[Workload]:
    """Return the workloads that are called so."""
    return [each for each in WORKLOADS if each.name in names]


def expected_seconds(effort: Effort) -> float:
    """Return how long ``run`` takes."""
    turns = (TURN_SECONDS + OVERHEAD_SECONDS) * (len(WORKLOADS) * effort.turns + len(effort.lonely))
    crowd = (CROWD_SECONDS + OVERHEAD_SECONDS) * len(effort.crowded)
    warm_up = (1 + OVERHEAD_SECONDS) * len(WARM_UP) + START_SECONDS
    each = CONFORMANCE_SECONDS + (warm_up + turns + crowd) * effort.rounds
    return each * len(TARGETS)


def keep_the_contract(bench: Bench) -> None:
    """Raise AnswersDiffer unless every target keeps the whole contract: only then is it a peer."""
    database = bench.stand.database(0)
    servers = Servers(database, bench.stand.redis_database())
    for name in TARGETS:
        bench.progress.step(f"{name}: the contract", CONFORMANCE_SECONDS)
        _, complaints = conformance(targets.TARGETS[name], servers, bench.stand.folder)
        if complaints:
            raise AnswersDiffer("\n".join([f"{name} does not keep the contract:", *complaints]))


def run(bench: Bench) -> None:
    """Measure every workload on every target in turn, on new processes in each round.

    New ones, since two processes of the same program differ by a tenth for as long as they live.
    """
    keep_the_contract(bench)
    database = bench.stand.database(USERS)
    for turns in bench.effort.turns_by_round:
        with bench.serving_all(TARGETS, database, USERS) as servers:
            _round(bench, database, servers, turns)


def _round(bench: Bench, database: str, servers: list[Server], turns: Sequence[int]) -> None:
    bench.stand.forget_created(database, USERS)
    compare(servers)
    for server in servers:
        for workload in WARM_UP:
            bench.warm_up(server, workload)
    for number in turns:
        for workload in WORKLOADS:
            _turn(bench, in_turn(servers, number), workload, CLIENTS)
    for workload in named(bench.effort.crowded):
        _turn(bench, in_turn(servers, turns[0]), workload, CROWD)
    for workload in named(bench.effort.lonely):
        _turn(bench, in_turn(servers, turns[0]), workload, ALONE)
    bench.stand.forget_created(database, USERS)
    compare(servers)


def _turn(bench: Bench, servers: list[Server], workload: Workload, clients: int) -> None:
    bench.stand.forget_created(servers[0].database_url, USERS)
    for server in servers:
        if workload.is_cached:
            # Or the first requests, all at once, would be a stampede, which only ours bounds.
            for request in workload.requests:
                httpx.get(server.url + request.path).raise_for_status()
        seconds = CROWD_SECONDS if clients == CROWD else TURN_SECONDS
        bench.measure(server, workload, clients=clients, seconds=seconds)
