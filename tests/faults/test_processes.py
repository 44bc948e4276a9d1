"""Faults of the service's own processes, and of clients that hold on to them."""

import itertools
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress

import httpx
import pytest

from tests.e2e.service import GUNICORN, SERVERS, RunningService
from tests.faults.harness.clients import READS, URL, Client, Mix, slack
from tests.faults.harness.figures import Row
from tests.faults.harness.liveness import Liveness
from tests.faults.harness.operations import Operation, Outcome
from tests.faults.harness.processes import footprint
from tests.faults.harness.raw import head
from tests.faults.harness.scraper import Scraper, uncounted
from tests.faults.harness.stage import DEADLINE, STARTED, Scene, Stage
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
        with Scraper(scene.service.url) as scraper, scene.fault():
            # granian ends itself when one worker dies twice within 5.5 s, and each of its workers
            # has a listening socket of its own.
            for pid in scene.worker_pids():
                before = scene.service.log.count(STARTED[server])
                os.kill(pid, signal.SIGKILL)
                wait_for_line(scene, STARTED[server], before + 1)
        assert uncounted(scene.service.url, scene.load.operations) == 0
        # A worker killed between COMMIT and invalidation leaves stale pages behind.
        scene.pages = PageRule([(scene.began, scene.ended + TTL)], bound=TTL + 1, stale_bound=300)
        eventually(lambda: len(scene.worker_pids()) == 2, timeout=5)
        assert set(scene.worker_pids()) != set(scene.workers)
    row.note(
        f"2 kills, {row.unknown} requests without an answer, {scraper.scrapes} scrapes"
        " in which no counter went backwards"
    )
    assert scraper.complaints == []
    assert scraper.scrapes >= 2
    assert row.failed == 0
    assert row.unknown <= 2 * scene.load.mix.clients


def wait_for_line(scene: Scene, line: str, times: int) -> None:
    """Wait until ``line`` is in the log so many times."""
    eventually(lambda: scene.service.log.count(line) >= times)


def ask_until_told_to_leave(url: str, done: list[Operation]) -> None:
    """Read and write on one connection until an answer says that it is the last one."""
    with closing(Client(url, deadline=DEADLINE)) as client:
        while True:
            answer = client.ask("GET", URL)
            done.append(client.operation_of(answer))
            if answer.status is None or answer.headers.get("Connection") == "close":
                return


@under_each_server
@pytest.mark.row("SIGTERM under keep-alive load")
def test_sigterm_fails_no_request_and_readiness_turns_first(
    stage: Stage, row: Row, server: str
) -> None:
    done: list[Operation] = []
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
    not_ready = [when for when, status in ready if status == 503]
    gone = [when for when, status in ready if status is None]
    served_after = max(each.ended for each in done) - told
    row.note(
        f"exit {service.process.returncode} after {took:.2f} s, "
        f"last answer after {served_after:.2f} s, readiness 503 from"
        f" {min(not_ready, default=-1):.2f} s, no connections from {min(gone, default=took):.2f} s"
    )
    assert service.process.returncode == 0
    assert took < 10
    assert row.acknowledged == row.sent
    assert not_ready
    assert min(not_ready) < 0.5
    assert min(gone, default=took) > 0.9


def readiness(service: RunningService) -> int | None:
    try:
        return httpx.get(f"{service.url}/health/ready", timeout=5).status_code
    except httpx.TransportError:
        return None


@pytest.mark.slow
@under_each_server
@pytest.mark.row("rolling restart of two replicas under load")
def test_rolling_restart_fails_no_request(stage: Stage, row: Row, server: str) -> None:
    drain = {"DRAIN_DELAY": "1", "SERVER": server}
    with ExitStack() as stack:
        old = [stack.enter_context(stage.service(drain)) for _ in range(2)]
        balancer = stack.enter_context(Balancer())
        for replica in old:
            balancer.serve(replica)
        with balancer.clients(6) as done:
            for replica in old:
                time.sleep(1)
                balancer.serve(stack.enter_context(stage.service(drain)))
                assert replica.stop(timeout=20) == 0
            time.sleep(1)
    row.count(done)
    assert [str(each) for each in done if each.complaint or each.outcome in BAD] == []


class Balancer:
    """Sends requests to the replicas whose readiness is 200, on connections that are kept."""

    def __init__(self) -> None:
        self._ready: list[str] = []
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> "Balancer":
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def serve(self, replica: RunningService) -> None:
        """Add a replica, and wait until it gets requests."""
        self._start(self._probe, replica)
        eventually(lambda: replica.url in self._ready)

    @contextmanager
    def clients(self, number: int) -> Iterator[list[Operation]]:
        """Have clients at work for a block, and write down what they do."""
        done: list[Operation] = []
        over = threading.Event()
        with ThreadPoolExecutor(number) as threads:
            working = [threads.submit(self._work, each, over, done) for each in range(number)]
            try:
                yield done
            finally:
                over.set()
            for each in working:
                each.result()

    def _work(self, client_number: int, over: threading.Event, done: list[Operation]) -> None:
        connections: dict[str, Client] = {}
        with ExitStack() as stack:
            for number in itertools.count(client_number):
                if over.wait(0.005):
                    return
                ready = list(self._ready)
                url = ready[number % len(ready)]
                if url not in connections:
                    client = Client(url, deadline=DEADLINE, number=client_number)
                    connections[url] = stack.enter_context(closing(client))
                if number % 5:
                    done.append(connections[url].list_users())
                else:
                    value = f"v{number}.c{client_number}@example.com"
                    done.append(connections[url].create(f"user{number % 30}", value))

    def _probe(self, replica: RunningService) -> None:
        while replica.process.poll() is None and not self._over.wait(0.1):
            if readiness(replica) != 200:
                self._ready = [url for url in self._ready if url != replica.url]
            elif replica.url not in self._ready:
                self._ready = [*self._ready, replica.url]

    def _start(self, work: Callable[[RunningService], None], replica: RunningService) -> None:
        thread = threading.Thread(target=work, args=(replica,))
        thread.start()
        self._threads.append(thread)


BAD = (Outcome.FAILED, Outcome.UNKNOWN)


def recycled(scene: Scene) -> int:
    return scene.service.log.count("Autorestarting worker")


@pytest.mark.slow
@pytest.mark.row("worker recycling under load")
def test_recycled_workers_fail_no_request(stage: Stage, row: Row) -> None:
    recycling = ["--max-requests", "150", "--max-requests-jitter", "50"]
    command = [*GUNICORN[:-1], *recycling, GUNICORN[-1]]
    with stage.scene(row, command=command) as scene:
        scene.workers_may_change = True
        with scene.fault():
            eventually(lambda: recycled(scene) > 4, timeout=60)
    row.note(f"{recycled(scene)} workers recycled")
    assert [str(each) for each in scene.load.operations if each.outcome in BAD] == []


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
            clients[kind] = [stack.enter_context(connected(port, start)) for _ in range(number)]
        yield clients


@contextmanager
def connected(port: int, start: bytes) -> Iterator[socket.socket]:
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", port))
        client.setblocking(False)
        with suppress(BlockingIOError):
            client.send(start)
        yield client


@pytest.mark.slow
# granian leaves slow bodies and slow readers to a gateway.
@pytest.mark.parametrize("server", ["gunicorn"])
@pytest.mark.row("120 slow clients: header, body, reading slowly")
def test_slow_clients_delay_no_other(stage: Stage, row: Row, server: str) -> None:
    mix = Mix(clients=4, list=0)
    environment = {"SERVER": server}
    with stage.scene(row, mix, after=1, environment=environment) as scene, scene.fault():
        fill(scene)
        with Liveness(scene.service.url) as live, slow_clients(scene.service.port, 40) as clients:
            for _ in range(20):  # a byte now and then
                for client in (*clients["header"], *clients["body"]):
                    client.send(b"x")
                scene.wait(0.1)
        row.note(f"/health/live answered within {live.longest:.3f} s")
    assert live.statuses == {200}
    assert live.longest < 1 + slack()
    assert [str(each) for each in scene.during() if each.outcome in BAD] == []


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("server", ["gunicorn"])
@pytest.mark.row("slow clients: closed, or 408")
def test_slow_clients_are_closed_in_the_end(stage: Stage, row: Row, server: str) -> None:
    limit = 120
    held: dict[str, float] = {}
    with stage.scene(row, READS, environment={"SERVER": server}) as scene, scene.fault():
        fill(scene)
        began = time.monotonic()
        with slow_clients(scene.service.port, 5) as clients:
            while len(held) < len(clients) and time.monotonic() < began + limit:
                trickle(clients["header"] + clients["body"])
                scene.wait(1)
                for kind, group in clients.items():
                    if kind not in held and not held_by(scene.worker_pids(), group):
                        held[kind] = time.monotonic() - began
        row.note(", ".join(f"{kind} held for {seconds:.0f} s" for kind, seconds in held.items()))
    assert sorted(held) == sorted(clients)


def fill(scene: Scene) -> None:
    """Make so many users that a page has 15 kB."""
    with scene.client() as client:
        for number in range(100):
            done = client.create(f"reader{number}", f"v{number}.{'r' * 40}@example.com")
            scene.load.operations.append(done)


def trickle(clients: list[socket.socket]) -> None:
    """Send a byte more on each connection that is still there."""
    for client in clients:
        with suppress(OSError):
            client.send(b"x")


def held_by(workers: list[int], clients: list[socket.socket]) -> int:
    """Return how many of these connections the workers still have open.

    Asked on their side: a client that does not read is told nothing before it has read on.
    """
    ports = tuple(client.getsockname()[1] for client in clients)
    return sum(sum(footprint(pid, ports).connections.values()) for pid in workers)
