"""Secrets appear in no log of any level and format, response, health report or process list."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
import redis as redis_py

from dev.servers import PostgresServer, RedisServer
from tests.e2e.service import RunningService, running
from tests.faults.harness.standby import run
from tests.integration.users import ADA, URL
from tests.issuer import Issuer, ec_key
from tests.waiting import eventually
from user_service.database.migrate import migrate
from user_service.database.stored_keys import add_key
from user_service.domain.api_key import new_key
from user_service.web.policies.access import SCOPES

DATABASE_PASSWORD = "d4tabase-Pa55word@:/#"
OWNER_PASSWORD = "0wner-Pa55word"
REDIS_PASSWORD = "r3dis-Pa55word"
REPLICA_PASSWORD = "repl1ca-Pa55word"
CURSOR_KEY = "curs0r-k3y-of-this-test"
# The parts to search for: unlikely to occur by accident, without characters that URLs encode.
SECRETS = ("d4tabase-Pa55word", OWNER_PASSWORD, REPLICA_PASSWORD, REDIS_PASSWORD, CURSOR_KEY)


@dataclass
class Backends:
    """PostgreSQL and Redis with known passwords."""

    postgres: PostgresServer
    redis: RedisServer

    def secrets(self) -> dict[str, str]:
        password = quote(DATABASE_PASSWORD, safe="")
        host = f"127.0.0.1:{self.postgres.port}/users"
        return {
            "DATABASE_URL": f"postgresql://users_service:{password}@{host}",
            "DATABASE_OWNER_URL": f"postgresql://users:{OWNER_PASSWORD}@{host}",
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
    run(
        backends.postgres,
        "DROP SCHEMA public CASCADE",
        "CREATE SCHEMA public AUTHORIZATION users",
        f"ALTER ROLE users PASSWORD '{OWNER_PASSWORD}'",
        f"ALTER ROLE users_service PASSWORD '{DATABASE_PASSWORD}'",
    )
    with redis_py.Redis.from_url(backends.redis.url) as client:
        client.config_set("requirepass", REDIS_PASSWORD)


def in_files(secrets: dict[str, str], folder: Path) -> dict[str, str]:
    for name, secret in secrets.items():
        (folder / name).write_text(secret + "\n")
    return {f"{name}_FILE": str(folder / name) for name in secrets}


@contextmanager
def searched(
    log: Path, environment: dict[str, str], secrets: tuple[str, ...] = SECRETS
) -> Iterator[tuple[RunningService, Callable[..., set[int]]]]:
    """Start the service; search its log, its command lines and its responses for secrets.

    The function sends valid and invalid requests to each route, and returns the statuses. It takes
    the credential of the client.
    """
    output: list[str] = []
    with running(log, environment | {"LOG_LEVEL": "DEBUG", "WEB_CONCURRENCY": "1"}) as service:
        output += [Path(f"/proc/{pid}/cmdline").read_text() for pid in service.pids]
        yield service, partial(send_requests, service, output)
        service.stop()
    text = "\n".join([*output, service.log])
    assert len(text) > 1000
    assert [secret for secret in secrets if secret in text] == []


def send_requests(
    service: RunningService, output: list[str], credential: str | None = None
) -> set[int]:
    headers = {} if credential is None else {"Authorization": f"Bearer {credential}"}
    with httpx.Client(base_url=service.url, timeout=20, headers=headers) as http:
        answers = [
            *(http.get(path) for path in ("/health", "/health/live", "/health/ready")),
            *(http.get(path) for path in ("/metrics", "/openapi.json", "/docs", "/nowhere")),
            *(http.get(URL + rest) for rest in ("", "/1", "?page=x", "?cursor=forged", "?q=%00")),
            http.get(f"{URL}?per_page=1", headers={"X-Request-ID": "\x01"}),
            http.post(URL, json=ADA),
            http.post(URL, json=ADA),
            http.post(URL, content=b'{"username": ', headers={"Content-Type": "application/json"}),
            http.post(URL, content=b"x"),
            http.put(f"{URL}/1", json={}),
            http.delete(f"{URL}/9"),
        ]
    with socket.create_connection(("127.0.0.1", service.port), timeout=5) as client:
        client.sendall(b"rubbish\r\n\r\n")
        output.append(client.recv(65536).decode())
    with socket.create_connection(("127.0.0.1", service.port), timeout=5) as client:
        client.sendall(f"GET / HTTP/1.1\r\nAuthorization: Bearer {credential}\r\nX: ".encode())
    for answer in answers:
        output += [str(answer.headers), answer.text]
    return {answer.status_code for answer in answers}


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_no_output_contains_a_secret_whatever_fails(
    backends: Backends, tmp_path: Path, log_format: str
) -> None:
    secrets = backends.secrets()
    environment = secrets if log_format == "text" else in_files(secrets, tmp_path)
    environment |= {"LOG_FORMAT": log_format, "RETRY_ATTEMPTS": "1", "RATE_LIMIT": "1000/minute"}
    with searched(tmp_path / "log", environment) as (service, send):
        assert {200, 201, 400, 404, 409, 415} <= send()
        with redis_py.Redis.from_url(secrets["REDIS_URL"]) as client:
            client.config_set("requirepass", "another")
            client.client_kill_filter(_type="normal", skipme=True)
        send()
        backends.redis.stop()
        assert 200 in send()
        run(backends.postgres, "DROP TABLE users CASCADE")
        assert 500 in send()  # with a traceback in the log
        backends.postgres.stop()
        assert 503 in send()
    assert "password authentication failed" in service.log  # that for the replica
    assert "Traceback" in service.log


def test_credential_of_a_caller_is_not_repeated_whatever_fails(
    backends: Backends, tmp_path: Path
) -> None:
    issuer = Issuer(ec_key("ec"))
    environment = backends.secrets() | issuer.settings(tmp_path / "keys.json")
    environment |= {"AUTH_API_KEYS": "true", "RATE_LIMIT": "1000/minute"}
    migrate(environment["DATABASE_URL"], owner_dsn=environment["DATABASE_OWNER_URL"])
    key, stored = new_key("every", frozenset(SCOPES), None)
    add_key(environment["DATABASE_OWNER_URL"], stored)
    accepted, refused = (issuer.token(), key), (issuer.token(exp=1), f"{key}x", issuer.token()[:-1])
    parts = tuple(part for each in (*accepted, *refused) for part in each.split(".")[-2:])
    secrets = (*SECRETS, *parts, key.split("_", 2)[2], stored.digest.hex())
    with searched(tmp_path / "log", environment, secrets) as (service, send):
        for credential in accepted:
            assert {200, 404, 409, 415} <= send(credential)
        for credential in refused:
            assert {200, 401} <= send(credential)
        (tmp_path / "keys.json").write_bytes(b"[]")
        run(backends.postgres, "DROP TABLE users, api_keys CASCADE")
        for credential in accepted:
            assert 500 in send(credential)
    assert "Traceback" in service.log


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
    environment = backends.secrets() | {
        "REDIS_URL": form.format(port=backends.redis.port),
        "RATE_LIMIT": "1000/minute",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://users:{REDIS_PASSWORD}@127.0.0.1:1",
        "OTEL_EXPORTER_OTLP_HEADERS": f"api-key={CURSOR_KEY},Authorization: {CURSOR_KEY}",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    with searched(tmp_path / "log", environment) as (service, send):
        assert {200, 201, 400, 404, 409, 415} <= send()
        eventually(lambda: "opentelemetry" in service.log)
    assert "page cache bypassed" in service.log
