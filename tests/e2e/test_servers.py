"""The service under each server, over HTTP: processes, signals, slow clients, lost servers."""

import json
import os
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import httpx
import pytest

from dev.servers import PostgresServer, RedisServer
from tests.e2e.service import (
    GUNICORN,
    SERVE,
    SERVERS,
    SERVICE,
    RunningService,
    clean_environment,
    free_port,
    running,
)
from tests.faults.harness.processes import children, footprint
from tests.faults.harness.raw import exchange
from tests.waiting import eventually

URL = "/api/v1/users"


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def user(name: str) -> dict[str, str]:
    return {"username": name, "email": f"{name}@example.com"}


def total(service: RunningService) -> int:
    number: int = httpx.get(service.url + URL).json()["pagination"]["total"]
    return number


def test_page_cached_by_one_process_is_not_served_stale_by_another(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    one_worker = environment | {"WEB_CONCURRENCY": "1"}
    with (
        running(tmp_path / "a.log", one_worker) as a,
        running(tmp_path / "b.log", one_worker) as b,
    ):
        for n in range(1, 21):
            writer, reader = (a, b) if n % 2 else (b, a)
            assert total(reader) == n - 1
            assert httpx.get(reader.url + URL).headers["X-Cache"] == "HIT"
            assert httpx.post(writer.url + URL, json=user(f"user{n}")).status_code == 201
            assert total(reader) == n


def test_ipv6_and_ipv4_are_both_served(tmp_path: Path, environment: dict[str, str]) -> None:
    with running(tmp_path / "log", environment | {"HOST": "::"}) as service:
        for host in ("[::1]", "127.0.0.1"):
            assert httpx.get(f"http://{host}:{service.port}{URL}").status_code == 200


@pytest.mark.parametrize("server", ["gunicorn"])
def test_low_limit_of_open_files_is_raised(tmp_path: Path, environment: dict[str, str]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    try:
        with running(tmp_path / "log", environment) as service:
            limits = Path(f"/proc/{service.workers[0]}/limits").read_text()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert re.search(rf"Max open files +{hard} ", limits)


def test_readiness_says_no_while_requests_are_still_served(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    with running(tmp_path / "log", environment | {"DRAIN_DELAY": "2"}) as service:
        service.process.terminate()
        ready = f"{service.url}/health/ready"
        eventually(lambda: httpx.get(ready).json()["status"] == "draining", timeout=1)
        assert httpx.get(ready).status_code == 503
        assert httpx.get(service.url + URL).status_code == 200
        assert httpx.post(service.url + URL, json=user("ada")).status_code == 201
        assert service.process.wait(15) == 0


@pytest.mark.parametrize("server", ["gunicorn"])
def test_workers_that_a_reload_has_started_drain_too(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    with running(tmp_path / "log", environment | {"DRAIN_DELAY": "2"}) as service:
        before = service.workers
        service.process.send_signal(signal.SIGHUP)
        eventually(lambda: not set(before) & set(service.workers), timeout=20)
        ready = f"{service.url}/health/ready"
        eventually(lambda: httpx.get(ready).status_code == 200)
        service.process.terminate()
        eventually(lambda: httpx.get(ready).json()["status"] == "draining", timeout=1)
        assert service.process.wait(15) == 0


@pytest.mark.parametrize("server", ["gunicorn"])
def test_master_that_is_succeeded_by_another_leaves_it_the_socket(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    """gunicorn's way to another release without a gap: USR2, then TERM to the old master."""
    # Not by "python -m", by which the new master would take gunicorn's modules for everybody's.
    script = [str(Path(sys.executable).with_name("gunicorn")), *GUNICORN[3:]]
    with running(tmp_path / "log", environment | {"WEB_CONCURRENCY": "1"}, script) as service:
        before = service.workers
        service.process.send_signal(signal.SIGUSR2)
        eventually(lambda: len(service.workers) > len(before), timeout=20)
        (successor,) = set(service.workers) - set(before)
        try:
            eventually(lambda: len(children(successor)) == 1, timeout=20)
            eventually(lambda: service.log.count("connection pool opened") == 2, timeout=20)
            assert service.stop(timeout=30) == 0
            for _ in range(10):
                assert httpx.get(service.url + "/health/live", timeout=2).status_code == 200
        finally:
            os.kill(successor, signal.SIGTERM)
            eventually(lambda: not Path(f"/proc/{successor}").exists(), timeout=30)


@pytest.mark.parametrize("server", ["gunicorn"])
def test_worker_that_has_served_its_requests_is_replaced_at_once(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    one_worker = environment | {"WEB_CONCURRENCY": "1"}
    with (
        running(tmp_path / "log", one_worker, [*GUNICORN, "--max-requests=50"]) as service,
        httpx.Client(base_url=service.url) as idle,
    ):
        assert idle.get("/health/live").status_code == 200
        (worker,) = service.workers
        for _ in range(50):
            assert httpx.get(service.url + "/health/live").status_code == 200
        eventually(lambda: worker not in service.workers, timeout=5)


def test_sigterm_fails_no_new_connection_of_a_balancer(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    """A balancer opens connections until it sees that readiness says no."""
    answered = [0] * 8
    is_ready = [True]

    def come_again_and_again(number: int) -> None:
        while is_ready[0]:
            assert httpx.get(service.url + "/health/live", timeout=20).status_code == 200
            answered[number] += 1

    def probe() -> None:
        while httpx.get(service.url + "/health/ready", timeout=20).status_code == 200:
            time.sleep(0.05)
        is_ready[0] = False

    drain = {"DRAIN_DELAY": "3"}
    with (
        running(tmp_path / "log", environment | drain) as service,
        ThreadPoolExecutor(9) as threads,
    ):
        coming = [threads.submit(come_again_and_again, number) for number in range(8)]
        coming.append(threads.submit(probe))
        eventually(lambda: min(answered) > 20, timeout=60)
        assert service.stop(timeout=15) == 0
        for each in coming:
            each.result()


def test_server_whose_launcher_is_killed_ends(service: RunningService) -> None:
    eventually(lambda: service.log.count("connection pool opened") == 2)
    pids = service.pids
    service.process.kill()
    service.process.wait()
    eventually(lambda: not any(map(is_running, pids)), timeout=20)


def test_launcher_ends_with_a_killed_server_and_its_workers(service: RunningService) -> None:
    eventually(lambda: service.log.count("connection pool opened") == 2)
    pids = service.pids
    os.kill(service.master, signal.SIGKILL)
    assert service.process.wait(10) == 128 + signal.SIGKILL
    eventually(lambda: not any(map(is_running, pids)))
    assert "connection pool closed" not in service.log  # the workers were killed at once


@pytest.mark.parametrize("server", ["granian"])
def test_workers_of_granian_end_when_all_above_them_are_killed(service: RunningService) -> None:
    pids = service.pids
    for pid in (service.process.pid, service.master):
        os.kill(pid, signal.SIGKILL)
    service.process.wait()
    eventually(lambda: not any(map(is_running, pids)), timeout=20)


def is_running(pid: int) -> bool:
    """Tell whether there is a process that is more than an entry for its exit code."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def test_stop_during_the_start_is_not_ignored(
    tmp_path: Path, environment: dict[str, str], server: str
) -> None:
    log_file = tmp_path / "log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            SERVE,
            cwd=SERVICE,
            env=clean_environment() | environment | {"PORT": str(free_port()), "DRAIN_DELAY": "0"},
            stdout=log,
            stderr=log,
        )
    forked = {"gunicorn": "Booting worker", "granian": "Spawning worker-2"}[server]
    eventually(lambda: forked in log_file.read_text(encoding="utf-8"), timeout=60)
    process.terminate()
    assert process.wait(15) == 0  # a worker that ignores the signal would have 20


def test_idle_connections_do_not_hold_up_the_stop(service: RunningService) -> None:
    with httpx.Client(base_url=service.url) as client:
        client.get("/health/live")
        assert service.stop(timeout=10) == 0  # what is under way would have 20


def test_connection_that_is_answered_late_does_not_hold_up_the_stop(
    service: RunningService,
) -> None:
    body = json.dumps(user("ada")).encode()
    head = (
        "POST /api/v1/users HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as client:
        client.sendall(head.encode() + body[:10])
        time.sleep(0.5)
        service.process.terminate()
        time.sleep(4)  # longer than idle connections stay open
        client.sendall(body[10:])
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 201 ")
        assert service.process.wait(8) == 0  # what is under way would have 20


def test_hundred_slow_clients_delay_no_other(service: RunningService, http: httpx.Client) -> None:
    with ExitStack() as stack:
        address = ("127.0.0.1", service.port)
        slow = [stack.enter_context(socket.create_connection(address)) for _ in range(100)]
        for each in slow:
            each.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
        for path in ("/health/live", URL):
            assert http.get(path).status_code == 200
        # The others were served while these were still waited for.
        assert select.select(slow, [], [], 0)[0] == []


HEALTH = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
MANY = 20_000


def test_client_that_always_has_a_request_ready_delays_no_other(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    with (
        running(tmp_path / "log", environment | {"WEB_CONCURRENCY": "1"}) as service,
        httpx.Client(base_url=service.url, timeout=20) as http,
        ThreadPoolExecutor(2) as threads,
        socket.create_connection(("127.0.0.1", service.port), timeout=20) as greedy,
    ):
        answers = [0]

        def count_answers() -> None:
            with suppress(OSError):
                while answers[0] < MANY and (received := greedy.recv(1 << 20)):
                    answers[0] += received.count(b"HTTP/1.1 200")

        sending = threads.submit(greedy.sendall, HEALTH * MANY)
        counting = threads.submit(count_answers)
        eventually(lambda: answers[0] > 10)
        assert http.get("/health/live").status_code == 200
        assert answers[0] < MANY
        greedy.shutdown(socket.SHUT_RDWR)
        counting.result(20)
        sending.exception(20)


SLOW_BODY = (
    b"POST /api/v1/users HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b'Content-Length: 1000\r\n\r\n{"username": '
)
# Some 15 kB each: more responses than the sockets' buffers on both sides hold.
MANY_PAGES = b"GET /api/v1/users?per_page=100 HTTP/1.1\r\nHost: x\r\n\r\n" * 2000


# granian leaves slow bodies and slow readers to a gateway.
@pytest.mark.parametrize("server", ["gunicorn"])
@pytest.mark.parametrize("sent", [SLOW_BODY, MANY_PAGES], ids=["sending", "reading"])
def test_client_that_stands_still_is_closed(
    tmp_path: Path, environment: dict[str, str], sent: bytes
) -> None:
    with (
        running(tmp_path / "log", environment | {"REQUEST_TIMEOUT": "0.5"}) as service,
        httpx.Client(base_url=service.url, timeout=20) as http,
        socket.create_connection(("127.0.0.1", service.port), timeout=10) as client,
    ):
        for n in range(100):
            assert http.post(URL, json=user(f"user{n}")).status_code == 201
        client.sendall(sent)
        assert is_held(service, client)
        eventually(lambda: not is_held(service, client), timeout=30)
        assert http.get("/health/live").status_code == 200


def test_client_that_is_slow_to_send_has_nothing_to_do_with_the_database(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    options = {"REQUEST_TIMEOUT": "1", "WEB_CONCURRENCY": "1"}
    with running(tmp_path / "log", environment | options) as service:
        with ThreadPoolExecutor(8) as threads:
            # More at once than the failures by which the circuit breaker opens.
            late = list(threads.map(partial(sent_in_pieces, service, 1.5), range(8)))
            slow = list(threads.map(partial(sent_in_pieces, service, 0.7), range(8, 16)))
        assert set(late) == {408}
        assert set(slow) == {201}
        health = httpx.get(service.url + "/health").json()
        assert health["breakers"]["database"] == "closed"
        assert "connection pool replaces" not in service.log


def sent_in_pieces(service: RunningService, seconds: float, number: int) -> int:
    """Return the status of a POST of which the body takes ``seconds`` to come."""
    body = json.dumps(user(f"slow{number}"))
    head = f"POST {URL} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as client:
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body[:5]}".encode())
        time.sleep(seconds)
        client.sendall(body[5:].encode())
        return int(client.recv(4096).split()[1])


def is_held(service: RunningService, client: socket.socket) -> bool:
    """Tell whether a worker has the connection: a client that does not read sees no end of it."""
    port = client.getsockname()[1]
    workers = service.workers
    return any(footprint(worker, (port,)).connections for worker in workers)


def test_starts_without_the_database_and_becomes_ready_by_itself(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    with PostgresServer(tmp_path / "postgres", durable=False) as postgres:
        postgres.stop()
        with running(tmp_path / "log", environment | {"DATABASE_URL": postgres.url}) as service:
            assert httpx.get(f"{service.url}/health/ready").status_code == 503
            assert httpx.get(f"{service.url}{URL}", timeout=20).status_code == 503
            postgres.start()
            eventually(lambda: httpx.get(f"{service.url}/health/ready").status_code == 200)
            assert httpx.post(service.url + URL, json=user("ada")).status_code == 201


@pytest.mark.parametrize("fault", ["stop", "freeze"])
def test_loss_of_redis_changes_no_status(
    tmp_path: Path, environment: dict[str, str], fault: str
) -> None:
    patience = {"REDIS_TIMEOUT": "0.3"}
    with (
        RedisServer(tmp_path / "redis") as redis,
        running(tmp_path / "log", environment | {"REDIS_URL": redis.url, **patience}) as service,
        httpx.Client(base_url=service.url, timeout=20) as http,
    ):
        assert http.post(URL, json=user("ada")).status_code == 201
        http.get(URL)
        redis.stop() if fault == "stop" else redis.freeze()
        assert http.post(URL, json=user("grace")).status_code == 201
        assert http.post(URL, json=user("ada")).status_code == 409
        listed = http.get(URL)
        assert (listed.status_code, listed.headers["X-Cache"]) == (200, "BYPASS")
        assert listed.json()["pagination"]["total"] == 2
        assert http.patch(f"{URL}/1", json={"username": "lovelace"}).status_code == 200
        assert http.delete(f"{URL}/2").status_code in (204, 404)
        redis.start() if fault == "stop" else redis.thaw()
        eventually(lambda: http.get(URL).headers["X-Cache"] == "HIT")
        assert http.get(URL).json()["users"][0]["username"] == "lovelace"


@pytest.mark.parametrize("server", ["gunicorn"])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
def test_chunked_body_over_the_limit_is_too_large(
    service: RunningService, http: httpx.Client, method: str
) -> None:
    body = json.dumps(user("ada")).encode()
    path = URL if method == "POST" else f"{URL}/1"
    json_type = {"Content-Type": "application/json"}
    for chunks in ([body, b" " * 65_536], [body] + [b" " * 100] * 1000, [b" " * 65_537]):
        answer = http.request(method, path, content=iter(chunks), headers=json_type)
        assert "Content-Length" not in answer.request.headers
        assert answer.status_code == 413
        assert answer.headers["Content-Type"] == "application/problem+json"
    assert total(service) == 0
    created = http.post(URL, content=iter([body[:10], body[10:]]), headers=json_type)
    assert created.status_code == 201


@pytest.mark.parametrize("is_announced", [True, False])
def test_client_that_sends_far_too_much_sees_the_answer_each_time(
    http: httpx.Client, server: str, *, is_announced: bool
) -> None:
    body = b" " * 300_000
    for _ in range(50):
        content = body if is_announced else iter([body])
        answer = http.post(URL, content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code == (413 if is_announced or server == "gunicorn" else 411)


def test_text_log_has_one_line_a_request(service: RunningService, http: httpx.Client) -> None:
    http.get(f"{URL}/7", headers={"X-Request-ID": "my-request_1"})
    line = re.compile(
        r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} - user_service\.access - INFO - "
        r"GET /api/v1/users/<user_id:user_id> 404 [\d.]+ ms request_id=my-request_1$",
        re.MULTILINE,
    )
    eventually(lambda: len(line.findall(service.log)) == 1)


def test_json_log_is_one_object_a_line(tmp_path: Path, environment: dict[str, str]) -> None:
    with running(tmp_path / "log", environment | {"LOG_FORMAT": "json"}) as service:
        httpx.get(f"{service.url}{URL}", headers={"X-Request-ID": "my-request_1"})
        assert service.stop() == 0
    lines = [json.loads(line) for line in service.log.splitlines()]
    (request,) = [line for line in lines if line["request_id"] == "my-request_1"]
    assert request["method"] == "GET"
    assert request["route"] == URL
    assert request["status"] == 200
    assert request["duration_ms"] > 0
    assert any(line["message"].startswith("connection pool opened") for line in lines)


@pytest.mark.parametrize("server", ["gunicorn"])
def test_invalid_http_is_logged_by_its_id_and_without_its_content(
    service: RunningService,
) -> None:
    request = "GET /api/v1/users?email=jürgen@example.com HTTP/1.1\r\nHost: a\r\n\r\n"
    (answer,) = exchange(service.port, request.encode())
    request_id = answer.body["request_id"]
    eventually(lambda: f"400 The request is not valid HTTP, request_id={request_id}" in service.log)
    assert "example.com" not in service.log
    assert "127.0.0.1" not in service.log.partition("connection pool opened")[2]


@pytest.mark.parametrize(
    "headers",
    [
        {"SCRIPT_NAME": "/x"},
        {"SCRIPT_NAME": "/api"},
        {"PATH_INFO": "/metrics"},
        {"X-Forwarded-Proto": "gopher", "X-Forwarded-Ssl": "on"},
    ],
)
def test_headers_about_path_and_scheme_are_ignored(
    http: httpx.Client, headers: dict[str, str]
) -> None:
    answer = http.get(URL, headers=headers)
    assert answer.status_code == 200
    assert answer.json()["users"] == []


def test_server_does_not_tell_its_version(http: httpx.Client, server: str) -> None:
    for answer in (http.get(URL), http.get("/nowhere"), http.get("/health")):
        assert answer.headers["Server"] == server
        assert "X-Powered-By" not in answer.headers


def test_debug_is_off_whatever_flask_env_says(tmp_path: Path, environment: dict[str, str]) -> None:
    with running(tmp_path / "log", environment | {"FLASK_ENV": "development"}) as service:
        assert httpx.get(f"{service.url}/console").status_code == 404
        assert "Debugger" not in service.log


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DB_POOL_SIZE", "many"),
        ("LOG_FORMAT", "xml"),
        ("PORT", "0"),
        ("DB_PASSWORD_FILE", "/no"),
        ("PROMETHEUS_MULTIPROC_DIR", "/proc/no"),
    ],
)
def test_malformed_setting_stops_the_start_with_one_line(
    server: str, name: str, value: str
) -> None:
    ended = subprocess.run(
        SERVE,
        cwd=SERVICE,
        env=clean_environment() | {"SERVER": server, name: value},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.startswith(f"user-service: {name}")


def test_rate_limit_holds_for_all_processes_together(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    limit = {"RATE_LIMIT": "40/minute", "TRUSTED_PROXIES": "127.0.0.1", "WEB_CONCURRENCY": "2"}

    def ask(n: int) -> int:
        forwarded = {"X-Forwarded-For": f"198.51.100.{n}, 203.0.113.9"}
        return httpx.get(service.url + URL, headers=forwarded, timeout=20).status_code

    with running(tmp_path / "log", environment | limit) as service:
        with ThreadPoolExecutor(16) as threads:
            statuses = list(threads.map(ask, range(120)))
        assert (statuses.count(200), statuses.count(429)) == (40, 80)
        # Another client, and the same one with a body that is not read.
        other = httpx.get(service.url + URL, headers={"X-Forwarded-For": "203.0.113.8"})
        assert other.headers["RateLimit"] == '"default";r=39;t=60'
        with httpx.Client(base_url=service.url) as client:
            for _ in range(3):
                mine = {"X-Forwarded-For": "203.0.113.9"}
                assert client.post(URL, content=b"x" * 60_000, headers=mine).status_code == 429


def test_rate_limit_holds_in_each_process_while_redis_is_away(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    def ask(_: int) -> int:
        return httpx.get(f"{service.url}/nowhere", timeout=20).status_code

    with RedisServer(tmp_path / "redis") as redis:
        limit = {"RATE_LIMIT": "20/hour", "WEB_CONCURRENCY": "2", "REDIS_URL": redis.url}
        with running(tmp_path / "log", environment | limit) as service:
            redis.stop()
            with ThreadPoolExecutor(16) as threads:
                statuses = list(threads.map(ask, range(120)))
            assert 20 <= statuses.count(404) <= 40
            assert statuses.count(404) + statuses.count(429) == 120
            redis.start()
            time.sleep(1.1)  # the breaker's pause
            with ThreadPoolExecutor(16) as threads:
                statuses = list(threads.map(ask, range(120)))
            # Whatever a process's first call found out about Redis, from then on all share again.
            assert 20 <= statuses.count(404) <= 22
