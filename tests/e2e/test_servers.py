"""The service under each server, over HTTP: processes, signals, slow clients, lost servers."""

import json
import os
import re
import resource
import select
import signal
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.e2e.service import (
    GUNICORN,
    SERVE,
    SERVERS,
    SERVICE,
    RunningService,
    Start,
    is_live,
    launch,
    run,
    running,
)
from tests.faults.harness.processes import children
from tests.faults.harness.raw import exchange
from tests.waiting import eventually, is_gone

URL = "/api/v1/users"


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def user(name: str) -> dict[str, str]:
    return {"username": name, "email": f"{name}@example.com"}


def total(service: RunningService) -> int:
    number: int = httpx.get(service.url + URL).json()["pagination"]["total"]
    return number


def test_page_cached_by_one_process_is_not_served_stale_by_another(start: Start) -> None:
    with start(WEB_CONCURRENCY="1") as a, start(WEB_CONCURRENCY="1") as b:
        for n in range(1, 21):
            writer, reader = (a, b) if n % 2 else (b, a)
            assert total(reader) == n - 1
            assert httpx.get(reader.url + URL).headers["X-Cache"] == "HIT"
            assert httpx.post(writer.url + URL, json=user(f"user{n}")).status_code == 201
            assert total(reader) == n


def test_ipv6_and_ipv4_are_both_served(start: Start) -> None:
    with start(HOST="::") as service:
        for host in ("[::1]", "127.0.0.1"):
            assert httpx.get(f"http://{host}:{service.port}{URL}").status_code == 200


def test_low_limit_of_open_files_is_raised(start: Start) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    try:
        with start() as service:
            limits = Path(f"/proc/{service.workers[0]}/limits").read_text()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert re.search(rf"Max open files +{hard} ", limits)


@pytest.mark.parametrize("server", ["gunicorn"])
def test_workers_that_a_reload_has_started_drain_too(start: Start) -> None:
    with start(DRAIN_DELAY="2") as service:
        before = service.workers
        service.process.send_signal(signal.SIGHUP)
        eventually(lambda: not set(before) & set(service.workers))
        ready = f"{service.url}/health/ready"
        eventually(lambda: httpx.get(ready).status_code == 200)
        service.process.terminate()
        eventually(lambda: httpx.get(ready).json()["status"] == "draining", timeout=1)
        assert service.process.wait(15) == 0


@pytest.mark.parametrize("server", ["gunicorn"])
def test_master_that_is_succeeded_by_another_leaves_it_the_socket(start: Start) -> None:
    """gunicorn's way to another release without a gap: USR2, then TERM to the old master."""
    # Not by "python -m", by which the new master would take gunicorn's modules for everybody's.
    script = [str(Path(sys.executable).with_name("gunicorn")), *GUNICORN[3:]]
    with start(script, WEB_CONCURRENCY="1") as service:
        before = service.workers
        service.process.send_signal(signal.SIGUSR2)
        eventually(lambda: len(service.workers) > len(before))
        (successor,) = set(service.workers) - set(before)
        try:
            eventually(lambda: len(children(successor)) == 1)
            eventually(lambda: service.log.count("connection pool opened") == 2)
            assert service.stop(timeout=30) == 0
            for _ in range(10):
                assert httpx.get(service.url + "/health/live", timeout=2).status_code == 200
        finally:
            os.kill(successor, signal.SIGTERM)
            eventually(lambda: not Path(f"/proc/{successor}").exists())


@pytest.mark.parametrize("killed", ["launcher", "server", "both"])
def test_killed_launcher_or_server_leaves_no_process(service: RunningService, killed: str) -> None:
    eventually(lambda: service.log.count("connection pool opened") == 2)
    pids = service.pids
    for name, pid in {"launcher": service.process.pid, "server": service.master}.items():
        if killed in (name, "both"):
            os.kill(pid, signal.SIGKILL)
    code = service.process.wait(10)
    eventually(lambda: all(map(is_gone, pids)))
    if killed == "server":
        assert code == 128 + signal.SIGKILL
        assert "connection pool closed" not in service.log  # the workers were killed at once


def test_stop_during_the_start_is_not_ignored(
    tmp_path: Path, environment: dict[str, str], server: str
) -> None:
    service = launch(tmp_path / "log", environment | {"DRAIN_DELAY": "0"})
    forked = {"gunicorn": "Booting worker", "granian": "Spawning worker-2"}[server]
    eventually(lambda: forked in service.log)
    assert service.stop(timeout=15) == 0  # a worker that ignores the signal would have 20


def test_reload_during_the_start_does_not_end_it(
    tmp_path: Path, environment: dict[str, str], server: str
) -> None:
    service = launch(tmp_path / "log", environment | {"DRAIN_DELAY": "0"})
    eventually(lambda: children(service.process.pid) != [])
    service.process.send_signal(signal.SIGHUP)
    eventually(lambda: is_live(service))
    assert service.stop() == 0, (server, service.log)


@pytest.mark.parametrize("server", ["gunicorn"])
def test_reload_finds_files_that_were_named_from_another_folder(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text("k" * 32)
    serve = f'cd "{tmp_path}" && exec "{sys.executable}" "{SERVICE / "serve.py"}"'
    with start(["sh", "-c", serve], CURSOR_KEY_FILE="key") as service:
        (master,) = children(service.process.pid)
        before = children(master)
        service.process.send_signal(signal.SIGHUP)
        eventually(lambda: not set(before) & set(children(master)))
        assert "not reloading" not in service.log


def test_idle_connections_do_not_hold_up_the_stop(service: RunningService) -> None:
    with httpx.Client(base_url=service.url) as client:
        client.get("/health/live")
        assert service.stop(timeout=10) == 0  # what is under way would have 20


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


def test_client_that_is_slow_to_send_has_nothing_to_do_with_the_database(start: Start) -> None:
    with start(REQUEST_TIMEOUT="1", WEB_CONCURRENCY="1") as service:
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


@pytest.mark.parametrize("is_announced", [True, False])
def test_client_that_sends_far_too_much_sees_the_answer_each_time(
    http: httpx.Client, server: str, *, is_announced: bool
) -> None:
    body = b" " * 300_000
    for _ in range(50):
        content = body if is_announced else iter([body])
        answer = http.post(URL, content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code == (413 if is_announced or server == "gunicorn" else 411)


def test_json_log_is_one_object_a_line(start: Start) -> None:
    with start(LOG_FORMAT="json") as service:
        httpx.get(f"{service.url}{URL}", headers={"X-Request-ID": "my-request_1"})
        assert service.stop() == 0
    lines = [json.loads(line) for line in service.log.splitlines()]
    (request,) = [line for line in lines if line["request_id"] == "my-request_1"]
    assert request.items() >= {"method": "GET", "route": URL, "status": 200}.items()
    assert request["duration_ms"] > 0
    assert any(line["message"].startswith("connection pool opened") for line in lines)


def test_stalled_reader_of_the_log_blocks_neither_requests_nor_a_stop(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with running(pipe, environment | {"DRAIN_DELAY": "0"}) as service:
        writer = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        for size in (4096, 1):  # until nothing fits in
            with pytest.raises(BlockingIOError):
                while True:
                    os.write(writer, b"." * size)
        with httpx.Client(base_url=service.url, timeout=20) as http:
            for path in ("/health/live", "/health/ready", URL, "/nowhere"):
                assert http.get(path).status_code in (200, 404)
        assert service.stop() == 0
        os.close(writer)
    os.close(reader)


def test_log_on_a_full_disk_costs_entries_and_no_exit_code(start: Start) -> None:
    limited = ["sh", "-c", 'ulimit -f 2 && exec "$0" serve.py', sys.executable]
    with start(limited, DRAIN_DELAY="0", PYTHONDONTWRITEBYTECODE="1") as service:
        for _ in range(20):
            assert httpx.get(service.url + URL).status_code == 200
        assert service.stop() == 0
    assert service.log_file.stat().st_size in (1024, 2048)  # by the shell's unit


@pytest.mark.parametrize("server", ["gunicorn"])
def test_invalid_http_is_logged_by_its_id_and_without_its_content(start: Start) -> None:
    with start(LOG_FORMAT="json") as service:
        request = "GET /api/v1/users?email=jürgen@example.com HTTP/1.1\r\nHost: a\r\n\r\n"
        (answer,) = exchange(service.port, request.encode())
        assert service.stop() == 0
    lines = map(json.loads, service.log.splitlines())
    (line,) = [line for line in lines if line["request_id"] == answer.body["request_id"]]
    assert line["message"] == "refused by the server: 400 The request is not valid HTTP"
    assert "example.com" not in service.log
    assert "127.0.0.1" not in service.log.partition("connection pool opened")[2]


def test_headers_about_path_and_scheme_are_ignored(http: httpx.Client) -> None:
    contradiction = {"X-Forwarded-Proto": "gopher", "X-Forwarded-Ssl": "on"}
    for headers in ({"SCRIPT_NAME": "/api"}, {"PATH_INFO": "/metrics"}, contradiction):
        assert http.get(URL, headers=headers).json()["users"] == []


def test_two_idempotency_keys_are_refused(http: httpx.Client) -> None:
    """Each server joins repeated header lines in its own way."""
    for one, other in [("a", "b"), ('"a"', '"b"'), ("a", "a"), ('"a"', "b")]:
        lines = [("Idempotency-Key", one), ("Idempotency-Key", other)]
        refused = http.post(URL, json=user("ada"), headers=lines)
        assert refused.status_code == 400
        assert refused.json()["errors"][0]["field"] == "Idempotency-Key"
    assert http.get(URL).json()["users"] == []


def test_server_does_not_tell_its_version(http: httpx.Client, server: str) -> None:
    for answer in (http.get(URL), http.get("/nowhere"), http.get("/health")):
        assert answer.headers["Server"] == server
        assert "X-Powered-By" not in answer.headers


def test_debug_is_off_whatever_flask_env_says(start: Start) -> None:
    with start(FLASK_ENV="development") as service:
        assert httpx.get(f"{service.url}/console").status_code == 404
        assert "Debugger" not in service.log


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DB_POOL_SIZE", "many"),
        ("LOG_FORMAT", "xml"),
        ("PORT", "0"),
        ("DB_PASSWORD_FILE", "/no"),
        ("DATABASE_URL", "postgresql://host/users?foo=bar"),
        ("PROMETHEUS_MULTIPROC_DIR", "/proc/no"),
    ],
)
def test_malformed_setting_stops_the_start_with_one_line(
    server: str, name: str, value: str
) -> None:
    ended = run(SERVE, {"SERVER": server, name: value})
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.startswith(f"user-service: {name}")


def test_port_of_another_service_ends_the_start(
    service: RunningService, server: str, environment: dict[str, str]
) -> None:
    ended = run(SERVE, environment | {"SERVER": server, "PORT": str(service.port)})
    assert ended.returncode == 1
    assert httpx.get(service.url + URL).status_code == 200


@pytest.mark.parametrize("server", ["gunicorn"])  # which it does not use
def test_development_server_says_its_address(start: Start) -> None:
    with start([sys.executable, "app.py"]) as service:
        assert f"user service: {service.url}  (Ctrl-C stops it)\n" in service.log


def test_rate_limit_holds_for_all_processes_together(start: Start) -> None:
    limit = {"RATE_LIMIT": "40/minute", "TRUSTED_PROXIES": "127.0.0.1", "WEB_CONCURRENCY": "2"}

    def ask(n: int) -> int:
        forwarded = {"X-Forwarded-For": f"198.51.100.{n}, 203.0.113.9"}
        return httpx.get(service.url + URL, headers=forwarded, timeout=20).status_code

    with start(**limit) as service:
        with ThreadPoolExecutor(16) as threads:
            statuses = list(threads.map(ask, range(120)))
        assert (statuses.count(200), statuses.count(429)) == (40, 80)
