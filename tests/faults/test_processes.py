"""Faults of the service's own processes, and of clients that hold on to them."""

import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress

import httpx
import pytest

from tests.e2e.service import GUNICORN, SERVERS, RunningService
from tests.faults.harness.clients import URL, Answer, Client, Mix
from tests.faults.harness.figures import Row
from tests.faults.harness.operations import failures
from tests.faults.harness.probes import Liveness, Scraper
from tests.faults.harness.processes import footprint
from tests.faults.harness.raw import head
from tests.faults.harness.stage import STARTED, Scene, Stage
from tests.faults.history import PageRule
from tests.waiting import eventually

TTL = 2

under_each_server = pytest.mark.parametrize("server", SERVERS)


@under_each_server
@pytest.mark.row("worker killed (-9)")
def test_killed_worker_costs_its_requests_in_flight_and_is_replaced(
    stage: Stage, row: Row, server: str
) -> None:
    environment = {"CACHE_TTL": str(TTL), "SERVER": server}
    with stage.scene(row, after=TTL, environment=environment) as scene:
        scene.workers_may_change = True
        service = scene.service
        with Scraper(service.url) as scraper, scene.fault():
            # granian ends itself when one worker dies twice within 5.5 s, and each of its workers
            # has a listening socket of its own.
            for pid in service.workers:
                started = service.log.count(STARTED[server]) + 1
                os.kill(pid, signal.SIGKILL)
                wait_for_line(service, STARTED[server], started)
        # A worker killed between COMMIT and invalidation leaves stale pages behind.
        scene.pages = PageRule([(scene.began, scene.ended + TTL)], bound=TTL + 1, stale_bound=300)
        eventually(lambda: len(service.workers) == 2, timeout=5)
        assert set(service.workers) != set(scene.workers)
    row.note(
        f"2 kills, {row.unknown} requests without an answer, {scraper.scrapes} scrapes"
        " in which no counter went backwards"
    )
    assert scraper.complaints == []
    assert scraper.scrapes >= 2
    assert row.failed == 0
    assert row.unknown <= 2 * scene.load.mix.clients


def wait_for_line(service: RunningService, line: str, times: int) -> None:
    """Wait until ``line`` is in the log so many times."""
    eventually(lambda: service.log.count(line) >= times)


def ask_until_told_to_leave(url: str, done: list[Answer]) -> None:
    """Read on one connection until an answer says that it is the last one."""
    with Client(url) as client:
        while True:
            done.append(client.ask("GET", URL))
            if done[-1].status is None or done[-1].headers.get("Connection") == "close":
                return


@under_each_server
@pytest.mark.row("SIGTERM under keep-alive load")
def test_sigterm_fails_no_request_and_readiness_turns_first(
    stage: Stage, row: Row, server: str
) -> None:
    done: list[Answer] = []
    ready: list[tuple[float, int | None]] = []
    environment = {"DRAIN_DELAY": "1", "SERVER": server}
    with stage.service(environment) as service, ThreadPoolExecutor(9) as threads:
        asking = [threads.submit(ask_until_told_to_leave, service.url, done) for _ in range(8)]
        eventually(lambda: len(done) > 200)
        told = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        while service.process.poll() is None:
            status = readiness(service)
            ready.append((time.monotonic() - told, status))  # when it is known, not when asked
            time.sleep(0.05)
        took = time.monotonic() - told
        for each in asking:
            each.result()
    row.count(done)
    not_ready = min((when for when, status in ready if status == 503), default=took)
    gone = min((when for when, status in ready if status is None), default=took)
    row.note(
        f"exit {service.process.returncode} after {took:.2f} s, readiness 503 from"
        f" {not_ready:.2f} s, no connections from {gone:.2f} s"
    )
    assert service.process.returncode == 0
    assert took < 10
    assert row.acknowledged == row.sent
    assert not_ready < 0.5
    assert gone > 0.9


def readiness(service: RunningService) -> int | None:
    try:
        return httpx.get(f"{service.url}/health/ready", timeout=5).status_code
    except httpx.TransportError:
        return None


@pytest.mark.slow
@pytest.mark.row("worker recycling under load")
def test_recycled_workers_fail_no_request(stage: Stage, row: Row) -> None:
    recycling = ["--max-requests", "150", "--max-requests-jitter", "50"]
    command = [*GUNICORN[:-1], *recycling, GUNICORN[-1]]
    with stage.scene(row, command=command) as scene:
        scene.workers_may_change = True
        with scene.fault():
            wait_for_line(scene.service, "Autorestarting worker", 5)
    assert failures(scene.load.operations) == []


@contextmanager
def slow_clients(port: int, number: int) -> Iterator[dict[str, list[socket.socket]]]:
    """Keep ``number`` clients of each kind: trickling a header, a body, and reading nothing."""
    post = head("POST", URL, [("Content-Type", "application/json"), ("Content-Length", "1000")])
    starts = {
        "header": b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
        "body": post + b'{"username": "',
        # Answers of 15 kB each that are not read: the kernel's buffers are full soon.
        "reading": head("GET", f"{URL}?per_page=100") * 2000,
    }
    with ExitStack() as stack:
        clients: dict[str, list[socket.socket]] = {}
        for kind, start in starts.items():
            clients[kind] = [stack.enter_context(socket.socket()) for _ in range(number)]
            for client in clients[kind]:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client.connect(("127.0.0.1", port))
                client.setblocking(False)
                with suppress(BlockingIOError):
                    client.send(start)
        yield clients


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.row("120 slow clients: header, body, reading slowly")
def test_slow_clients_delay_no_other_and_are_closed_in_the_end(stage: Stage, row: Row) -> None:
    """granian leaves slow bodies and slow readers to a gateway."""
    held: dict[str, float] = {}
    with stage.scene(row, Mix(clients=4, list=0), after=1) as scene, scene.fault():
        fill(scene)
        began = time.monotonic()
        with Liveness(scene.service.url) as live, slow_clients(scene.service.port, 40) as clients:
            while len(held) < len(clients) and time.monotonic() < began + 120:
                for client in clients["header"] + clients["body"]:
                    with suppress(OSError):  # it has been closed
                        client.send(b"x")
                time.sleep(1)
                for kind, group in clients.items():
                    if kind not in held and not held_by(scene.service.workers, group):
                        held[kind] = time.monotonic() - began
        row.note(", ".join(f"{kind} held for {seconds:.0f} s" for kind, seconds in held.items()))
        row.note(f"/health/live answered within {live.longest:.3f} s")
    assert sorted(held) == sorted(clients)
    assert live.statuses == {200}
    assert live.longest < 1
    assert failures(scene.during()) == []


def fill(scene: Scene) -> None:
    """Make so many users that a page has 15 kB."""
    with Client(scene.service.url, number=99) as client:
        for number in range(100):
            done = client.create(f"reader{number}", f"v{number}.{'r' * 40}@example.com")
            scene.load.operations.append(done)


def held_by(workers: list[int], clients: list[socket.socket]) -> int:
    """Return how many of these connections the workers still have open.

    Asked on their side: a client that does not read is told nothing before it has read on.
    """
    ports = tuple(client.getsockname()[1] for client in clients)
    return sum(sum(footprint(pid, ports).connections.values()) for pid in workers)
