"""What wrk is told to send by the benchmark, and what it says of the answers."""

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from benchmarks.load import Load, load
from benchmarks.measure import has_clients_that_have_gone
from benchmarks.processes import cpu_seconds, memory_mb, peak_memory_mb, tree
from benchmarks.workloads import CREATION, MIX, Request, Workload, deep, uncached
from tests.programs import program
from tests.waiting import eventually

Seen = list[tuple[str, str, str]]


@contextmanager
def server(status: int = 200) -> Iterator[tuple[str, Seen]]:
    """Answer every request alike, and remember what was asked."""
    seen: Seen = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            seen.append((self.command, self.path, body.decode()))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST = do_PUT = answer  # noqa: N815 -- http.server's names

        def log_message(self, *_: object) -> None: ...

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """Say nothing of the connections that wrk cuts at the end."""

    with Quiet(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.server_port}", seen
        finally:
            listening.shutdown()
            thread.join()


def loaded(workload: Workload, status: int = 200) -> tuple[Load, Seen]:
    program("wrk")
    with server(status) as (url, seen):
        return load(url, workload, users=100, clients=2, seconds=1), seen


def test_pages_go_round_in_all_sizes_and_every_request_is_counted() -> None:
    answered, seen = loaded(uncached(100))
    assert answered.failed == 0
    assert 10 < answered.requests <= len(seen)
    pages = [path for _, path, _ in seen]
    names = {
        f"/api/v1/users?page={page}&per_page={size}"
        for page in range(1, 9)
        for size in range(8, 13)
    }
    assert set(pages) == names
    # Before the first comes round again; of two clients, one may be held up as long as it likes.
    assert len(names - set(pages[: len(names) + 2])) <= 1
    assert answered.p50_ms <= answered.p99_ms


def test_deep_pages_are_the_last_ones() -> None:
    _, seen = loaded(deep(100))
    pages = {path for _, path, _ in seen}
    for size, last in ((8, 12), (9, 11), (10, 10), (11, 9), (12, 8)):
        of_this_size = {path for path in pages if path.endswith(f"&per_page={size}")}
        names = {f"page={page}&per_page={size}" for page in range(last - 7, last + 1)}
        assert of_this_size == {f"/api/v1/users?{name}" for name in names}


def test_nobody_is_created_twice() -> None:
    _, seen = loaded(CREATION)
    bodies = [body for _, _, body in seen]
    assert len(set(bodies)) == len(bodies)
    assert {method for method, _, _ in seen} == {"POST"}
    assert "@example.com" in bodies[0]


def test_mix_has_its_shares() -> None:
    _, seen = loaded(MIX)
    written = sum(method == "PUT" for method, _, _ in seen) / len(seen)
    assert 0.05 < written < 0.15
    ids = {path for method, path, _ in seen if method == "PUT"}
    assert ids <= {f"/api/v1/users/{number}" for number in range(1, 101)}


@pytest.mark.parametrize("status", [404, 503])
def test_answer_that_is_no_success_is_a_failure(status: int) -> None:
    answered, _ = loaded(Workload("get", "get", (Request("/"),)), status)
    assert answered.failed >= answered.requests > 0


def test_server_that_is_not_there_is_a_failure() -> None:
    program("wrk")
    with server() as (url, _):
        pass
    answered = load(url, Workload("get", "get", (Request("/"),)), users=1, clients=2, seconds=1)
    assert answered.failed > 0
    assert answered.requests == 0


def test_connection_that_its_client_has_closed_is_seen_until_the_server_closes_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            accepted, _ = listening.accept()
            assert not has_clients_that_have_gone(port)
        with accepted:
            eventually(lambda: has_clients_that_have_gone(port))
        eventually(lambda: not has_clients_that_have_gone(port))


def test_processes_are_measured_with_those_that_they_started() -> None:
    worker = "x = b'x' * 50_000_000\nfor _ in range(2_000_000): pass\nprint(flush=True); input()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {worker!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stdin
        process.stdout.readline()
        assert len(tree(process.pid)) == 2
        assert cpu_seconds(process.pid) > 0.03
        assert 50 < memory_mb(process.pid) < 100
        assert 50 < peak_memory_mb(process.pid) < 100
        process.stdin.close()
