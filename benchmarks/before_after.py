"""The service beside the practice that a review found: a connection for every request, no pages.

Both are served with one worker process, and started anew for each size of the table, so that the
peak of their memory is that of this size.
"""

import time
from collections.abc import Mapping
from typing import NamedTuple

from benchmarks.alone import alone
from benchmarks.bench import OVERHEAD_SECONDS, Bench, in_turn
from benchmarks.checks import same_users
from benchmarks.figures import Label
from benchmarks.measure import Server
from benchmarks.plan import Effort
from benchmarks.processes import memory_mb, peak_memory_mb
from benchmarks.stand import Stand
from benchmarks.workloads import CREATION, GET_BY_ID, LIST, Workload

NAME = "before"
TARGETS = ("before", "ours")
WORKLOADS = (LIST, GET_BY_ID, CREATION)
START_SECONDS = 6
STATISTICS_SECONDS = 0.1
STATISTICS_READINGS = 50
CONNECTING_SECONDS = 0.5
# Fifty clients would have to wait more than a minute each for a list of 100,000.
LONGEST_SECONDS = 8


class Connections(NamedTuple):
    """Something of the connections to each of the two servers."""

    postgres: float
    redis: float


def seconds_of(workload: Workload, target: str, users: int, clients: int, effort: Effort) -> int:
    """Return how long to measure: what answers few requests a second takes longer."""
    if target == "ours":
        return effort.before_seconds
    if workload != LIST:
        return 2 * effort.before_seconds
    # About 15 µs a user and response, and every client should have its turn, more than once.
    enough = round(users * 2e-5 * (clients + 2))
    return min(LONGEST_SECONDS, max(2 * effort.before_seconds, enough))


def is_slow(workload: Workload, target: str, clients: int) -> bool:
    """Tell whether much is still queued when the load ends."""
    return (workload, target) == (LIST, "before") and clients > 1


def expected_seconds(effort: Effort) -> float:
    """Return how long ``run`` takes."""
    each = sum(
        seconds_of(workload, target, users, clients, effort)
        + OVERHEAD_SECONDS
        + 2 * STATISTICS_SECONDS
        + START_SECONDS / 3 * is_slow(workload, target, clients)
        for users in effort.before_users
        for workload in WORKLOADS
        for clients in effort.before_clients
        for target in TARGETS
    )
    connecting = 2 * CONNECTING_SECONDS * effort.rounds
    sizes = len(effort.before_users)
    return each * effort.rounds + (START_SECONDS + len(TARGETS) + 1 + connecting) * sizes


def run(bench: Bench) -> None:
    """Measure every size, both targets in turn within each round."""
    for users in bench.effort.before_users:
        database = bench.stand.database(users)
        with bench.serving_all(TARGETS, database, users) as servers:
            _size(bench, database, servers)


def _size(bench: Bench, database: str, servers: list[Server]) -> None:
    users = servers[0].users
    bench.stand.forget_created(database, users)
    same_users(servers)
    for server in servers:
        bench.warm_up(server, GET_BY_ID)
        if server.name == "ours":  # its pool of Redis connections grows to what is needed at once
            bench.warm_up(server, LIST, clients=max(bench.effort.before_clients))
    for number in range(bench.effort.rounds):
        connect_ms = _connect_ms(bench, servers[0])
        for workload in WORKLOADS:
            for clients in bench.effort.before_clients:
                bench.stand.forget_created(database, users)
                for server in in_turn(servers, number):
                    if not is_slow(workload, server.name, clients):
                        _measure(bench, server, workload, clients, connect_ms)
                        continue
                    # A server of its own, with which its queue ends: to work it off takes minutes.
                    with bench.serving(server.name, database, users) as own:
                        _measure(bench, own, workload, clients, connect_ms, settling=False)
    bench.stand.forget_created(database, users)
    same_users(servers)
    for server in servers:
        pid = server.process.pid
        memory = {"memory_mb": memory_mb(pid), "peak_memory_mb": peak_memory_mb(pid)}
        bench.results.add(memory, target=server.name, users=users)


def _measure(
    bench: Bench,
    server: Server,
    workload: Workload,
    clients: int,
    connect_ms: Connections,
    *,
    settling: bool = True,
) -> None:
    seconds = seconds_of(workload, server.name, server.users, clients, bench.effort)
    before = _connections(bench.stand, server)
    figures = bench.measure(
        server, workload, clients=clients, seconds=seconds, settling=settling, users=server.users
    )
    after = _connections(bench.stand, server)
    opened = Connections(after.postgres - before.postgres, after.redis - before.redis)
    names: dict[str, Label] = {"target": server.name, "workload": workload.name, "clients": clients}
    bench.results.add(connecting(figures, opened, connect_ms), **names, users=server.users)


def connecting(
    figures: Mapping[str, float | None], opened: Connections, connect_ms: Connections
) -> dict[str, float | None]:
    """Return the connections opened per 1,000 requests, and the share of the time that they took.

    ``share`` is the time of a request's connections, as they take it alone, beside the time that
    the server had for a request: what one worker does one after the other.
    """
    requests, per_second = figures["handled"], figures["per_second"]
    if not requests or not per_second:
        return {
            "opened": None,
            "postgres_opened": None,
            "redis_opened": None,
            "connecting_share": None,
        }
    spent = opened.postgres * connect_ms.postgres + opened.redis * connect_ms.redis
    return {
        "opened": (opened.postgres + opened.redis) / requests * 1000,
        "postgres_opened": opened.postgres / requests * 1000,
        "redis_opened": opened.redis / requests * 1000,
        "connecting_share": spent / requests / (1000 / per_second),
    }


def _connections(stand: Stand, server: Server) -> Connections:
    """Return the connections that both servers have ever taken, by their own statistics.

    PostgreSQL's are complete when they rise no more: a backend tells of itself when it ends.
    """
    sessions = _sessions(stand, server)
    for _ in range(STATISTICS_READINGS):
        time.sleep(STATISTICS_SECONDS)
        before, sessions = sessions, _sessions(stand, server)
        if sessions == before:
            break
    return Connections(sessions, server.redis.info("stats")["total_connections_received"])


def _sessions(stand: Stand, server: Server) -> float:
    name = server.database_url.rpartition("/")[2]
    asked = "SELECT sessions FROM pg_stat_database WHERE datname = %s"
    ((sessions,),) = stand.ask(asked, name)
    return float(str(sessions))


def _connect_ms(bench: Bench, server: Server) -> Connections:
    """Return how many ms a connection takes, opened and closed alone."""
    urls = {"database_url": server.database_url, "redis_url": server.redis_url}
    job = {"kind": "connect", "seconds": CONNECTING_SECONDS, **urls}
    bench.progress.step("connecting, alone", 2 * CONNECTING_SECONDS)
    figures = alone(job, bench.stand.cores.service)
    ms = Connections(figures["postgres"]["ms"], figures["redis"]["ms"])
    bench.results.add({"postgres_connect_ms": ms.postgres, "redis_connect_ms": ms.redis})
    return ms
