"""What nothing on this stack can be faster than: the server, the framework, the drivers alone."""

import httpx

from benchmarks.alone import alone
from benchmarks.bench import OVERHEAD_SECONDS, Bench, in_turn
from benchmarks.constants import CONSTANT, serving_constants
from benchmarks.measure import Server
from benchmarks.plan import TURN_SECONDS, Effort
from benchmarks.statements import sent_alone, statements_of
from benchmarks.workloads import CACHED, CREATION, GET_BY_ID, UPDATING, page_of, uncached

NAME = "limit"
TARGETS = ("ours",)
USERS = 10_000
CLIENTS = (1, 10)
ROUTES = (page_of(10), uncached(USERS), GET_BY_ID, CREATION, UPDATING)
LOOPS = ("uncached", "get", "create", "update")
ALONE_SECONDS = 0.5


def expected_seconds(effort: Effort) -> float:
    """Return how long ``run`` takes."""
    loads = (len(ROUTES) + 2) * len(CLIENTS) * (TURN_SECONDS + OVERHEAD_SECONDS)
    loops = (len(LOOPS) + 2) * ALONE_SECONDS + 1
    return effort.rounds * (effort.turns * (loads + loops) + len(ROUTES) + 6) + 6


def run(bench: Bench) -> None:
    """Measure the service and what it stands on in turn, on new processes in each round."""
    database = bench.stand.database(USERS)
    statements = statements_of(bench, database)
    for turns in bench.effort.turns_by_round:
        with (
            bench.serving("ours", database, USERS) as ours,
            serving_constants(bench, ours, ["bare-wsgi", "bare-flask"]) as constants,
        ):
            asked = [(server, CONSTANT) for server in constants]
            asked += [(ours, workload) for workload in ROUTES]
            for server, workload in asked:
                bench.warm_up(server, workload)
            for number in turns:
                for clients in CLIENTS:
                    for server, workload in in_turn(asked, number):
                        bench.measure(server, workload, clients=clients)
                bench.stand.forget_created(database, USERS)
                _alone(bench, ours, statements)
                bench.stand.forget_created(database, USERS)


def _alone(bench: Bench, ours: Server, statements: dict[str, list[str]]) -> None:
    """Add what the drivers do alone: the statements of each route, and reading a cached page."""
    bench.progress.step("drivers, alone", (len(LOOPS) + 2) * ALONE_SECONDS + 1)
    httpx.get(ours.url + CACHED.path).raise_for_status()
    # Of a page that it has a copy of, the service asks only whether that is still current.
    names = (key.decode() for key in ours.redis.scan_iter())
    keys = [name for name in names if name.endswith(("generation", "history"))]
    job = {"kind": "redis", "redis_url": ours.redis_url, "keys": keys, "seconds": ALONE_SECONDS}
    for name, figures in alone(job, bench.stand.cores.service).items():
        bench.results.add(figures, target=name, workload="cached-10")
    chosen = {name: statements[name] for name in LOOPS}
    for name, figures in sent_alone(bench, ours.database_url, chosen, ALONE_SECONDS).items():
        bench.results.add(figures, target="psycopg2", workload=name)
