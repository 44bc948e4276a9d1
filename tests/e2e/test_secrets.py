"""Secrets appear in no log of any level and format, response, health report or process list."""

import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import httpx
import psycopg2
import pytest
import redis as redis_py

from dev.servers import PostgresServer, RedisServer
from tests.e2e.service import RunningService, running
from tests.waiting import eventually

URL = "/api/v1/users"
DATABASE_PASSWORD = "d4tabase-Pa55word@:/#"
REDIS_PASSWORD = "r3dis-Pa55word"
REPLICA_PASSWORD = "repl1ca-Pa55word"
CURSOR_KEY = "curs0r-k3y-of-this-test"
# The parts to search for: unlikely to occur by accident, without characters that URLs encode.
SECRETS = ("d4tabase-Pa55word", REPLICA_PASSWORD, REDIS_PASSWORD, CURSOR_KEY)

JSON = {"Content-Type": "application/json"}


@dataclass
class Backends:
    """PostgreSQL and Redis with known passwords."""

    postgres: PostgresServer
    redis: RedisServer

    def secrets(self, password: str = DATABASE_PASSWORD) -> dict[str, str]:
        host = f"127.0.0.1:{self.postgres.port}/users"
        return {
            "DATABASE_URL": f"postgresql://users:{quote(password, safe='')}@{host}",
            # The wrong password: each attempt to read there fails and is logged.
            "DATABASE_REPLICA_URL": f"postgresql://users:{REPLICA_PASSWORD}@{host}",
            "REDIS_URL": f"redis://:{REDIS_PASSWORD}@127.0.0.1:{self.redis.port}/0",
            "CURSOR_KEY": CURSOR_KEY,
        }


@pytest.fixture(scope="module")
def backends(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backends]:
    folder = tmp_path_factory.mktemp("backends")
    with (
        PostgresServer(folder / "postgres", durable=False) as postgres,
        RedisServer(folder / "redis") as redis,
    ):
        yield Backends(postgres, redis)


@pytest.fixture(autouse=True)
def passwords(backends: Backends) -> None:
    """Start both servers, empty and with the known passwords."""
    backends.postgres.start()
    backends.redis.restart()
    as_superuser(backends, "DROP SCHEMA public CASCADE")
    as_superuser(backends, "CREATE SCHEMA public AUTHORIZATION users")
    as_superuser(backends, f"ALTER ROLE users PASSWORD '{DATABASE_PASSWORD}'")
    with redis_py.Redis.from_url(backends.redis.url) as client:
        client.config_set("requirepass", REDIS_PASSWORD)


def as_superuser(backends: Backends, statement: str) -> None:
    with closing(psycopg2.connect(backends.postgres.admin_url)) as connection:
        connection.autocommit = True
        connection.cursor().execute(statement)


def by_variable(secrets: dict[str, str], _folder: Path) -> dict[str, str]:
    return secrets


def by_file(secrets: dict[str, str], folder: Path) -> dict[str, str]:
    for name, secret in secrets.items():
        (folder / name).write_text(secret + "\n")
    return {f"{name}_FILE": str(folder / name) for name in secrets}


@dataclass
class Output:
    """All output of a service: responses, log and command lines."""

    texts: list[str] = field(default_factory=list)

    def add(self, answer: httpx.Response) -> int:
        self.texts += [str(answer.headers), answer.text]
        return answer.status_code

    def assert_no_secret(self) -> None:
        text = "\n".join(self.texts)
        assert len(text) > 1000
        for secret in SECRETS:
            assert secret not in text, secret


@contextmanager
def recorded(output: Output, log: Path, environment: dict[str, str]) -> Iterator[RunningService]:
    """Start the service, and record its log and its command lines."""
    with running(log, environment) as service:
        for pid in service.pids:
            output.texts.append(Path(f"/proc/{pid}/cmdline").read_text())
        yield service
        service.stop()
    output.texts.append(service.log)


def send_requests(service: RunningService, output: Output) -> set[int]:
    """Send valid and invalid requests to each route; return the statuses."""
    user = {"username": "ada", "email": "ada@example.com"}
    with httpx.Client(base_url=service.url, timeout=20) as http:
        answers = [
            *(http.get(path) for path in ("/health", "/health/live", "/health/ready")),
            *(http.get(path) for path in ("/metrics", "/openapi.json", "/docs", "/nowhere")),
            *(http.get(URL + rest) for rest in ("", "/1", "?page=x", "?cursor=forged", "?q=%00")),
            http.get(f"{URL}?per_page=1", headers={"X-Request-ID": "\x01"}),
            http.post(URL, json=user),
            http.post(URL, json=user),
            http.post(URL, content=b'{"username": ', headers=JSON),
            http.post(URL, content=b"x"),
            http.put(f"{URL}/1", json={}),
            http.delete(f"{URL}/9"),
        ]
    with socket.create_connection(("127.0.0.1", service.port), timeout=5) as client:
        client.sendall(b"rubbish\r\n\r\n")
        output.texts.append(client.recv(65536).decode())
    return {output.add(answer) for answer in answers}


def database_loses_a_table(backends: Backends) -> None:
    """Cause a 500, with a traceback in the log."""
    as_superuser(backends, "DROP TABLE users CASCADE")


def redis_changes_its_password(backends: Backends) -> None:
    with redis_py.Redis.from_url(backends.secrets()["REDIS_URL"]) as client:
        client.config_set("requirepass", "another")
        client.client_kill_filter(_type="normal", skipme=True)


@pytest.mark.parametrize(("how", "log_format"), [(by_variable, "text"), (by_file, "json")])
def test_no_output_contains_a_secret_whatever_fails(
    backends: Backends,
    tmp_path: Path,
    how: Callable[[dict[str, str], Path], dict[str, str]],
    log_format: str,
) -> None:
    output = Output()
    environment = how(backends.secrets(), tmp_path)
    environment |= {"LOG_LEVEL": "DEBUG", "LOG_FORMAT": log_format, "RETRY_ATTEMPTS": "1"}
    environment |= {"RATE_LIMIT": "1000/minute", "WEB_CONCURRENCY": "1"}
    with recorded(output, tmp_path / "log", environment) as service:
        assert {200, 201, 400, 404, 409, 415} <= send_requests(service, output)
        redis_changes_its_password(backends)
        send_requests(service, output)
        backends.redis.stop()
        assert 200 in send_requests(service, output)
        database_loses_a_table(backends)
        assert 500 in send_requests(service, output)
        backends.postgres.stop()
        assert 503 in send_requests(service, output)
    assert "Traceback" in service.log
    output.assert_no_secret()


def test_wrong_password_is_not_repeated(backends: Backends, tmp_path: Path) -> None:
    output = Output()
    environment = by_file(backends.secrets("d4tabase-Pa55word, but wrong"), tmp_path)
    environment |= {"LOG_LEVEL": "DEBUG", "WEB_CONCURRENCY": "1"}
    with recorded(output, tmp_path / "log", environment) as service:
        assert 503 in send_requests(service, output)
    assert "password authentication failed" in service.log
    output.assert_no_secret()


@pytest.mark.parametrize(
    "form",
    [
        f"redis+sentinel://:{REDIS_PASSWORD}@127.0.0.1:{{port}},127.0.0.1:1/users/0",
        f"rediss+sentinel://:{REDIS_PASSWORD}@127.0.0.1:1/users?sentinel_password={REDIS_PASSWORD}",
        f"redis+cluster://users:{REDIS_PASSWORD}@127.0.0.1:{{port}},127.0.0.1:1",
        f"rediss+cluster://:{REDIS_PASSWORD}@127.0.0.1:1",
    ],
)
def test_unreachable_redis_of_any_form_and_collector_are_logged_without_passwords(
    backends: Backends, tmp_path: Path, form: str
) -> None:
    output = Output()
    environment = backends.secrets() | {"REDIS_URL": form.format(port=backends.redis.port)}
    environment |= {"LOG_LEVEL": "DEBUG", "RATE_LIMIT": "1000/minute", "WEB_CONCURRENCY": "1"}
    environment |= {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://users:{REDIS_PASSWORD}@127.0.0.1:1",
        "OTEL_EXPORTER_OTLP_HEADERS": f"api-key={CURSOR_KEY}",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    with recorded(output, tmp_path / "log", environment) as service:
        assert {200, 201, 400, 404, 409, 415} <= send_requests(service, output)
        eventually(lambda: "opentelemetry" in service.log)
    assert "page cache bypassed" in service.log
    output.assert_no_secret()
