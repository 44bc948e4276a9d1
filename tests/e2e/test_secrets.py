"""No secret is told: not in logs of any level and form, responses, health or the process list."""

import socket
import subprocess
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
from tests.e2e.service import GUNICORN, SERVICE, RunningService, clean_environment, running
from tests.waiting import eventually

URL = "/api/v1/users"
DATABASE_PASSWORD = "d4tabase-Pa55word@:/#"
REDIS_PASSWORD = "r3dis-Pa55word"
REPLICA_PASSWORD = "repl1ca-Pa55word"
CURSOR_KEY = "curs0r-k3y-of-this-test"
# What to look for: long enough to be no accident, and without what URLs encode.
SECRETS = ("d4tabase-Pa55word", REPLICA_PASSWORD, REDIS_PASSWORD, CURSOR_KEY)

JSON = {"Content-Type": "application/json"}


@dataclass
class Backends:
    """Servers behind passwords of our own."""

    postgres: PostgresServer
    redis: RedisServer

    def secrets(self, password: str = DATABASE_PASSWORD) -> dict[str, str]:
        host = f"127.0.0.1:{self.postgres.port}/users"
        return {
            "DATABASE_URL": f"postgresql://users:{quote(password, safe='')}@{host}",
            # No password of the role: each attempt to read there fails, and is logged.
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
    """Both servers up and empty, with the passwords to look for."""
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
class Said:
    """All that a service has said to anybody."""

    texts: list[str] = field(default_factory=list)

    def hear(self, answer: httpx.Response) -> int:
        self.texts += [str(answer.headers), answer.text]
        return answer.status_code

    def assert_no_secret(self) -> None:
        everything = "\n".join(self.texts)
        assert len(everything) > 1000
        for secret in SECRETS:
            assert secret not in everything, secret


@contextmanager
def listening(said: Said, log: Path, environment: dict[str, str]) -> Iterator[RunningService]:
    """Start the service, and take down its log and its command lines."""
    with running(log, environment) as service:
        for pid in service.pids:
            said.texts.append(Path(f"/proc/{pid}/cmdline").read_text())
        yield service
        service.stop()
    said.texts.append(service.log)


def ask_for_everything(service: RunningService, said: Said) -> set[int]:
    """Send what is right and what is wrong to each route; return the statuses."""
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
        said.texts.append(client.recv(65536).decode())
    return {said.hear(answer) for answer in answers}


def database_loses_a_table(backends: Backends) -> None:
    """A fault of ours: 500, with a traceback in the log."""
    as_superuser(backends, "DROP TABLE users CASCADE")


def redis_changes_its_password(backends: Backends) -> None:
    with redis_py.Redis.from_url(backends.secrets()["REDIS_URL"]) as client:
        client.config_set("requirepass", "another")
        client.client_kill_filter(_type="normal", skipme=True)


@pytest.mark.parametrize(("how", "log_format"), [(by_variable, "text"), (by_file, "json")])
def test_nothing_tells_a_secret_whatever_goes_wrong(
    backends: Backends,
    tmp_path: Path,
    how: Callable[[dict[str, str], Path], dict[str, str]],
    log_format: str,
) -> None:
    said = Said()
    environment = how(backends.secrets(), tmp_path)
    environment |= {"LOG_LEVEL": "DEBUG", "LOG_FORMAT": log_format, "RETRY_ATTEMPTS": "1"}
    environment |= {"RATE_LIMIT": "1000/minute", "WEB_CONCURRENCY": "1"}
    with listening(said, tmp_path / "log", environment) as service:
        assert {200, 201, 400, 404, 409, 415} <= ask_for_everything(service, said)
        redis_changes_its_password(backends)
        ask_for_everything(service, said)
        backends.redis.stop()
        assert 200 in ask_for_everything(service, said)
        database_loses_a_table(backends)
        assert 500 in ask_for_everything(service, said)
        backends.postgres.stop()
        assert 503 in ask_for_everything(service, said)
    assert "Traceback" in service.log
    said.assert_no_secret()


def test_wrong_password_is_not_told_back(backends: Backends, tmp_path: Path) -> None:
    said = Said()
    environment = by_file(backends.secrets("d4tabase-Pa55word, but wrong"), tmp_path)
    environment |= {"LOG_LEVEL": "DEBUG", "WEB_CONCURRENCY": "1"}
    with listening(said, tmp_path / "log", environment) as service:
        assert 503 in ask_for_everything(service, said)
    assert "password authentication failed" in service.log
    said.assert_no_secret()


@pytest.mark.parametrize(
    "form",
    [
        f"redis+sentinel://:{REDIS_PASSWORD}@127.0.0.1:{{port}},127.0.0.1:1/users/0",
        f"rediss+sentinel://:{REDIS_PASSWORD}@127.0.0.1:1/users?sentinel_password={REDIS_PASSWORD}",
        f"redis+cluster://users:{REDIS_PASSWORD}@127.0.0.1:{{port}},127.0.0.1:1",
        f"rediss+cluster://:{REDIS_PASSWORD}@127.0.0.1:1",
    ],
)
def test_servers_of_a_form_that_are_not_there_and_a_collector_are_told_of_without_it(
    backends: Backends, tmp_path: Path, form: str
) -> None:
    said = Said()
    environment = backends.secrets() | {"REDIS_URL": form.format(port=backends.redis.port)}
    environment |= {"LOG_LEVEL": "DEBUG", "RATE_LIMIT": "1000/minute", "WEB_CONCURRENCY": "1"}
    environment |= {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://users:{REDIS_PASSWORD}@127.0.0.1:1",
        "OTEL_EXPORTER_OTLP_HEADERS": f"api-key={CURSOR_KEY}",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    with listening(said, tmp_path / "log", environment) as service:
        assert {200, 201, 400, 404, 409, 415} <= ask_for_everything(service, said)
        eventually(lambda: "opentelemetry" in service.log)
    assert "page cache bypassed" in service.log
    said.assert_no_secret()


@pytest.mark.parametrize(("how", "name"), [(by_variable, "DATABASE_URL"), (by_file, "REDIS_URL")])
def test_secret_that_cannot_be_used_is_not_told_back(
    tmp_path: Path, how: Callable[[dict[str, str], Path], dict[str, str]], name: str
) -> None:
    environment = how({name: f"mysql://users:{DATABASE_PASSWORD}@db"}, tmp_path)
    ended = subprocess.run(
        GUNICORN,
        cwd=SERVICE,
        env=clean_environment() | environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 1
    assert name in ended.stderr
    assert SECRETS[0] not in ended.stdout + ended.stderr
