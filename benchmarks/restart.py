"""Requests at a constant rate while PostgreSQL is away for 2 s: how many fail.

The rate does not depend on the answers, as that of real clients does not. A target that refuses
quickly would otherwise be asked more often, and look worse for it.
"""

import asyncio
import itertools
import time
import uuid
from dataclasses import dataclass

import httpx

from benchmarks.bench import Bench, in_turn
from benchmarks.measure import Server
from benchmarks.plan import Effort
from benchmarks.workloads import USERS

NAME = "restart"
TARGETS = ("before", "ours")
NUMBER_OF_USERS = 1_000
PER_SECOND = 30
BEFORE_SECONDS, AWAY_SECONDS, AFTER_SECONDS = 1.0, 2.0, 4.0
KINDS = ("list", "get", "create")
CLIENT_TIMEOUT_SECONDS = 10.0
EACH_SECONDS = BEFORE_SECONDS + AWAY_SECONDS + AFTER_SECONDS + 1


@dataclass(frozen=True, slots=True)
class Sent:
    """One request: what it was, when it was sent and answered (s since the load began), and how."""

    kind: str
    at: float
    answered: float
    succeeded: bool


def expected_seconds(effort: Effort) -> float:
    """Return how long ``run`` takes."""
    return EACH_SECONDS * effort.rounds * len(TARGETS) + 5


def run(bench: Bench) -> None:
    """Restart PostgreSQL under load on each target in turn."""
    database = bench.stand.database(NUMBER_OF_USERS)
    with bench.serving_all(TARGETS, database, NUMBER_OF_USERS) as servers:
        for number in range(bench.effort.rounds):
            for server in in_turn(servers, number):
                bench.progress.step(f"{server.name}: PostgreSQL away for 2 s", EACH_SECONDS)
                bench.stand.forget_created(database, NUMBER_OF_USERS)
                # As in a service that has been up for a while, the list has been asked for.
                httpx.get(server.url + USERS).raise_for_status()
                asyncio.run(_one_round(bench, server))


async def _one_round(bench: Bench, server: Server) -> None:
    began = time.perf_counter()
    load = asyncio.create_task(_send(server, began))
    await asyncio.sleep(BEFORE_SECONDS)
    stopped = time.perf_counter() - began
    await asyncio.to_thread(bench.stand.postgres.stop)
    await asyncio.sleep(max(0.0, stopped + AWAY_SECONDS - (time.perf_counter() - began)))
    await asyncio.to_thread(bench.stand.postgres.start)
    back = time.perf_counter() - began
    sent = await load
    for kind in (*KINDS, "all"):
        chosen = [each for each in sent if kind in (each.kind, "all")]
        bench.results.add(figures(chosen, stopped, back), target=server.name, workload=kind)


def figures(sent: list[Sent], stopped: float, back: float) -> dict[str, float | None]:
    """Return the shares that failed of those sent while the server was away, and afterwards.

    ``longest_ms`` is the longest that anybody waited for an answer of whatever kind.
    """
    during = [each for each in sent if stopped <= each.at < back]
    after = [each for each in sent if each.at >= back]
    return {
        "sent_during": len(during),
        "failed_during": _share_failed(during),
        "failed_after": _share_failed(after),
        "longest_ms": max(each.answered - each.at for each in sent) * 1000,
        "away_s": back - stopped,
    }


def _share_failed(sent: list[Sent]) -> float | None:
    return sum(not each.succeeded for each in sent) / len(sent) if sent else None


async def _send(server: Server, began: float) -> list[Sent]:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=CLIENT_TIMEOUT_SECONDS, limits=limits) as client:
        tasks = []
        seconds = BEFORE_SECONDS + AWAY_SECONDS + AFTER_SECONDS
        for number, kind in zip(range(int(PER_SECOND * seconds)), itertools.cycle(KINDS)):
            due = began + number / PER_SECOND
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.append(asyncio.create_task(_ask(client, server, kind, began)))
        return list(await asyncio.gather(*tasks))


async def _ask(client: httpx.AsyncClient, server: Server, kind: str, began: float) -> Sent:
    name = f"u{uuid.uuid4().hex}"
    users = server.url + USERS
    at = time.perf_counter() - began
    try:
        match kind:
            case "list":
                answer = await client.get(users)
            case "get":
                answer = await client.get(f"{users}/1")
            case _:
                user = {"username": name, "email": f"{name}@example.com"}
                answer = await client.post(users, json=user)
        succeeded = answer.is_success
    except httpx.HTTPError:
        succeeded = False
    return Sent(kind, at, time.perf_counter() - began, succeeded)
