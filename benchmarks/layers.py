"""Where the time of a request goes: CPU time of constants that do one thing more than another.

CPU time, because it is the same whatever else the machine does meanwhile.
"""

from collections.abc import Iterable

from benchmarks.bench import OVERHEAD_SECONDS, Bench, in_turn
from benchmarks.constants import CONSTANT, serving_constants
from benchmarks.measure import Server
from benchmarks.plan import TURN_SECONDS, Effort
from benchmarks.workloads import GET_BY_ID, Request, Workload, page_of, uncached

NAME = "layers"
TARGETS = ("ours",)
USERS = 10_000
CLIENTS = 10
LAYERS = ("middleware", "redis", "redis-miss", "sql-user", "sql-page", "page")
ROUTES = (page_of(10), uncached(USERS), GET_BY_ID)


def expected_seconds(effort: Effort) -> float:
    """Return how long ``run`` takes."""
    each = TURN_SECONDS + OVERHEAD_SECONDS
    turns = (len(LAYERS) + len(ROUTES) + 2) * each * (effort.turns + 1)
    return (turns + 8) * effort.rounds


def run(bench: Bench) -> None:
    """Measure every layer and the routes that they make up in turn, on new processes each round."""
    database = bench.stand.database(USERS)
    for turns in bench.effort.turns_by_round:
        bench.stand.forget_created(database, USERS)
        _round(bench, database, turns)


def _round(bench: Bench, database: str, turns: Iterable[int]) -> None:
    names = ["bare-wsgi", "bare-flask", "layered"]
    with (
        bench.serving("ours", database, USERS) as ours,
        serving_constants(bench, ours, names) as (wsgi, flask, layered),
    ):
        asked: list[tuple[Server, Workload]] = [(wsgi, CONSTANT), (flask, CONSTANT)]
        asked += [(layered, _layer(name)) for name in LAYERS]
        asked += [(layered, workload) for workload in ROUTES]
        for server, workload in asked:
            bench.warm_up(server, workload)
        for number in turns:
            for server, workload in in_turn(asked, number):
                bench.measure(server, workload, clients=CLIENTS)


def _layer(name: str) -> Workload:
    return Workload(name, name, (Request(f"/layers/{name}"),))
