"""The tools of the benchmarks: wrk, the count of function calls, the use of processes."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from itertools import product

from flask import Flask
from psycopg2.extensions import cursor
from werkzeug.test import Client

from benchmarks.calls import LIMITS, STORED, counts
from benchmarks.load import CREATE, GET, MIX, UNCACHED, Load, Workload, load
from benchmarks.measure import cpu_seconds, memory_mb, peak_memory_mb, process_tree
from benchmarks.stand import POPULATE
from tests.http_servers import http_server
from tests.programs import program

Seen = list[tuple[str, str, str]]


@contextmanager
def server(status: int = 200) -> Iterator[tuple[str, Seen]]:
    """Answer every request with ``status``, and record method, path and body."""
    seen: Seen = []

    def record(request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        seen.append((request.command, request.path, body.decode()))
        request.send_response(status)
        request.send_header("Content-Length", "0")
        request.end_headers()

    with http_server(record, version="HTTP/1.1") as port:
        yield f"http://127.0.0.1:{port}", seen


def loaded(workload: Workload, status: int = 200) -> tuple[Load, Seen]:
    program("wrk")
    with server(status) as (url, seen):
        return load(url, workload, users=100, clients=2, seconds=1), seen


def test_uncached_pages_are_all_different_before_the_first_repeats() -> None:
    observed, seen = loaded(UNCACHED)
    assert observed.failed == 0
    assert 10 < observed.requests <= len(seen)
    pages = [path for _, path, _ in seen]
    sizes = product(range(1, 8), range(8, 13))
    names = {f"/api/v1/users?page={page}&per_page={size}" for page, size in sizes}
    assert set(pages) == names
    # One of two clients may be held up, so that its page arrives later.
    assert len(names - set(pages[: len(names) + 2])) <= 1


def test_no_name_is_created_twice_and_a_tenth_of_the_mix_are_updates_of_stored_users() -> None:
    _, created = loaded(CREATE)
    assert len({body for _, _, body in created}) == len(created)
    assert {method for method, _, _ in created} == {"POST"}
    _, mixed = loaded(MIX)
    updated = [path for method, path, _ in mixed if method == "PUT"]
    assert 0.05 < len(updated) / len(mixed) < 0.15
    assert set(updated) <= {f"/api/v1/users/{number}" for number in range(1, 101)}


def test_response_that_is_not_a_success_and_a_missing_server_are_failures() -> None:
    observed, _ = loaded(GET, 503)
    assert observed.failed >= observed.requests > 0
    with server() as (url, _):
        pass
    observed = load(url, GET, users=1, clients=2, seconds=1)
    assert observed.failed > 0
    assert observed.requests == 0


def test_processes_are_measured_with_their_children() -> None:
    worker = "x = b'x' * 50_000_000\nfor _ in range(2_000_000): pass\nprint(flush=True); input()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {worker!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stdin
        process.stdout.readline()
        assert len(process_tree(process.pid)) == 2
        assert cpu_seconds(process.pid) > 0.03
        assert 50 < memory_mb(process.pid) < 100
        assert 50 < peak_memory_mb(process.pid) < 100
        process.stdin.close()


def test_functions_called_for_every_kind_of_request_are_counted(app: Flask, admin: cursor) -> None:
    admin.execute(POPULATE, (STORED,))
    counted = counts(Client(app))
    assert counted.keys() >= LIMITS.keys()
    assert 0 < counted["cached page"].calls < counted["uncached page"].calls
    assert all(0 < count.files <= count.calls for count in counted.values())
