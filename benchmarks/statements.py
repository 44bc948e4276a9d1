"""The statements that the service sends for a request, as PostgreSQL itself logs them."""

import re
import time

import httpx

from benchmarks.alone import alone
from benchmarks.bench import Bench
from benchmarks.measure import Server
from benchmarks.workloads import USERS

# In place of the name of a new user: replaced by another each time a statement is sent again.
UNIQUE = "uniquename"
_ENTRY = re.compile(r"^\S+ \S+ \S+ \[\d+\] (\w+):  ", re.MULTILINE)


def statements_of(bench: Bench, database_url: str) -> dict[str, list[str]]:
    """Return the statements of each route, by the name of its workload."""
    name = database_url.rpartition("/")[2]
    bench.progress.step("the statements of each route", 3)
    bench.stand.ask(f"ALTER DATABASE \"{name}\" SET log_statement = 'all'")
    try:
        with bench.serving("ours", database_url, 1) as server:
            return {kind: _sent(bench, server, kind) for kind in _ASKED}
    finally:
        bench.stand.ask(f'ALTER DATABASE "{name}" RESET log_statement')
        bench.stand.ask("DELETE FROM users WHERE username = %s", UNIQUE, url=database_url)


def sent_alone(
    bench: Bench, database_url: str, statements: dict[str, list[str]], seconds: float
) -> dict[str, dict[str, float]]:
    """Return the figures of psycopg2 alone, sending the statements of each workload in turn."""
    job = {
        "kind": "statements",
        "database_url": database_url,
        "statements": statements,
        "unique": UNIQUE,
        "seconds": seconds,
    }
    return alone(job, bench.stand.cores.service)


_USER = {"username": UNIQUE, "email": f"{UNIQUE}@example.com"}
_ASKED = {
    "uncached": ("GET", f"{USERS}?page=100&per_page=10", None),
    "get": ("GET", f"{USERS}/1", None),
    "create": ("POST", USERS, _USER),
    "update": ("PUT", f"{USERS}/2", {"username": "User2", "email": "User2@example.com"}),
}


def _sent(bench: Bench, server: Server, kind: str) -> list[str]:
    method, path, body = _ASKED[kind]
    for _ in range(2):  # a first request may send more: what is then remembered
        log = bench.stand.postgres_log()
        httpx.request(method, server.url + path, json=body).raise_for_status()
        time.sleep(0.2)
        if method == "POST":
            break
        server.redis.flushdb()
    return statements_in(bench.stand.postgres_log()[len(log) :])


def statements_in(log: str) -> list[str]:
    """Return the statements in PostgreSQL's log; lines after the first of each begin with a tab."""
    parts = _ENTRY.split(log)
    messages = zip(parts[1::2], parts[2::2], strict=True)
    return [
        text.removeprefix("statement: ").replace("\n\t", "\n").strip()
        for kind, text in messages
        if kind == "LOG" and text.startswith("statement: ")
    ]
