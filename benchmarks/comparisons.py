"""Comparisons in turn: the service beside its peers, and beside the code before the review."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from benchmarks import contract
from benchmarks.load import CACHED, CLIENTS, CREATE, CROWD, GET, LIST, WORKLOADS, Workload
from benchmarks.measure import Bench, in_turn, peak_memory_mb, run_load, warm_up
from benchmarks.results import Label
from benchmarks.stand import Server
from benchmarks.targets import (
    BEFORE,
    COMPARED,
    EDGE,
    EDGE_WITH_TLS,
    FASTAPI,
    FASTIFY,
    OURS,
    Target,
    program,
    with_token,
)
from tests.servers import docker_answers

STORED = 10_000


@dataclass(frozen=True, slots=True)
class Comparison:
    """Targets that get each of these workloads in turn; the results have ``labels``."""

    targets: Sequence[Target]
    workloads: Sequence[Workload]
    labels: Mapping[str, Label] = field(default_factory=dict)


def compare(bench: Bench, *comparisons: Comparison) -> None:
    """Measure all comparisons in each round, on processes that are new in each round.

    Two processes of one program differ for as long as they live. The order of the targets is
    random. Raises ContractBroken before the first round if a target deviates from the contract.
    """
    targets = dict.fromkeys(target for each in comparisons for target in each.targets)
    for target in (each for each in targets if each.contract):
        bench.say(f"{target.label}: the contract")
        contract.require(bench.stand, target)
    turns = itertools.count()
    for number in range(bench.effort.rounds):
        with ExitStack() as stack:
            servers = {
                target: stack.enter_context(bench.stand.serve(target, STORED)) for target in targets
            }
            bench.say(f"round {number + 1} of {bench.effort.rounds}: warm-up")
            for server in servers.values():
                warm_up(server)
            for comparison in comparisons:
                _take_turns(bench, comparison, servers, turns)


def _take_turns(
    bench: Bench,
    comparison: Comparison,
    servers: Mapping[Target, Server],
    turns: Iterator[int],
) -> None:
    compared = [servers[target] for target in comparison.targets]
    for workload, clients in itertools.product(comparison.workloads, CLIENTS):
        # The first requests of a crowd come at once; a longer turn keeps them rare.
        seconds = bench.effort.crowd_seconds if clients == CROWD else bench.effort.seconds
        bench.stand.reset(STORED)
        for server in in_turn(compared, next(turns)):
            bench.measure(server, workload, clients=clients, seconds=seconds, **comparison.labels)


def peers(bench: Bench) -> None:
    """Compare the service on both servers with its peers."""
    compare(bench, Comparison(COMPARED, WORKLOADS))


def edge(bench: Bench) -> None:
    """Compare cached pages from the gateway, if Docker answers, with those of the fastest peers."""
    if not docker_answers():
        bench.say("no Docker engine answers: not measured")
        return
    program("h2load")
    compare(bench, Comparison((EDGE, EDGE_WITH_TLS, FASTIFY, FASTAPI), (CACHED,)))


def authentication(bench: Bench) -> None:
    """Compare the service with itself while its callers send tokens that it has verified before."""
    targets = (with_token(bench.stand.folder / "keys.json"), OURS)
    compare(bench, Comparison(targets, (CACHED, GET)))


def before(bench: Bench) -> None:
    """Compare the service with the code before the review, which lists all users at once.

    Each measurement has a new process: its peak memory is that of one table size, and its queue
    ends with it.
    """
    contract.require(bench.stand, OURS)
    asked = [(LIST, users) for users in bench.effort.list_users] + [(GET, STORED), (CREATE, STORED)]
    for number in range(bench.effort.rounds):
        bench.say(f"round {number + 1} of {bench.effort.rounds}")
        for (workload, users), clients in itertools.product(asked, CLIENTS):
            bench.stand.reset(users)
            for target in in_turn((BEFORE, OURS), number):
                with bench.stand.serve(target, users) as server:
                    _measure_connections(bench, server, workload, clients)


def _measure_connections(bench: Bench, server: Server, workload: Workload, clients: int) -> None:
    seconds = bench.effort.seconds
    if server.target is OURS:
        # Its pools grow now and stay.
        run_load(server, workload, clients=clients, seconds=1)
    elif workload is LIST:
        # About 30 µs a user; several times as long, because all clients queue for one process.
        seconds = max(seconds, round(server.users * 8e-5))
    connections = bench.stand.connections(server)
    labels: dict[str, Label] = {"users": server.users}
    seen = bench.measure(server, workload, clients=clients, seconds=seconds, **labels)
    opened = bench.stand.connections(server) - connections
    # The server also finished the request that each client had sent when the load ended.
    figures = {
        "opened": opened / (seen.requests + clients) * 1000 if not seen.failed else None,
        "peak_memory_mb": peak_memory_mb(server.pid),
    }
    labels |= {"target": server.target.name, "workload": workload.name, "clients": clients}
    bench.results.add(figures, **labels)
