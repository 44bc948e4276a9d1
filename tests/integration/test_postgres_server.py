"""A PostgreSQL that refuses connections, or that is set up in another way."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import psycopg2
import pytest
from flask import Flask
from flask.testing import FlaskClient
from psycopg2.extensions import cursor
from pydantic import SecretStr

from app import create_app
from dev.servers import PostgresServer
from tests.responses import json_of, problem_of
from tests.waiting import eventually
from user_service.database.connections import GROW_SECONDS
from user_service.resilience.breaker import State
from user_service.settings import Settings
from user_service.web.services import services_of

SLOTS = 5
USER = "/api/v1/users/1"


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    options = {
        "max_connections": str(SLOTS + 1),
        "superuser_reserved_connections": "1",
        "listen_addresses": "127.0.0.1,::1",
    }
    folder = tmp_path_factory.mktemp("postgres")
    with PostgresServer(folder, options=options, durable=False) as server:
        yield server


@pytest.fixture
def admin(postgres: PostgresServer) -> Iterator[cursor]:
    """A superuser, for whom a slot is reserved."""
    with closing(psycopg2.connect(postgres.admin_url)) as connection:
        connection.autocommit = True
        yield connection.cursor()


@pytest.fixture
def elsewhere(postgres: PostgresServer, settings: Settings) -> Settings:
    """The settings for this server."""
    return with_url(settings, postgres.url)


def with_url(settings: Settings, url: str) -> Settings:
    return settings.model_copy(update={"database_url": SecretStr(url)})


@pytest.fixture
def password_file(
    postgres: PostgresServer,
    admin: cursor,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Path]:
    """The file with the password, for an application that is configured by the environment."""
    password = postgres.url.split(":")[2].split("@")[0]
    file = tmp_path / "password"
    file.write_text(password)
    for name in ("DATABASE_URL", "DB_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DB_HOST", "127.0.0.1")
    monkeypatch.setenv("DB_PORT", str(postgres.port))
    monkeypatch.setenv("DB_PASSWORD_FILE", str(file))
    monkeypatch.setenv("REDIS_URL", settings.redis_dsn)
    yield file
    admin.execute("ALTER ROLE users PASSWORD %s", (password,))


def serving(stack: ExitStack, app: Flask) -> FlaskClient:
    stack.enter_context(closing(services_of(app)))
    services_of(app).open()
    return app.test_client()


def terminate_all(admin: cursor) -> None:
    admin.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = 'users'"
    )


def statuses(client: FlaskClient, number: int) -> list[int]:
    """Return the statuses of as many requests at once."""
    clients = [client.application.test_client() for _ in range(number)]
    with ThreadPoolExecutor(number) as threads:
        return list(threads.map(lambda each: each.delete(USER).status_code, clients))


def test_pools_that_do_not_fit_share_what_there_is(
    elsewhere: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings = elsewhere.model_copy(update={"db_pool_size": SLOTS})
    with ExitStack() as stack:
        busy, client = (serving(stack, create_app(settings)) for _ in range(2))
        database = services_of(client.application).database
        with ExitStack() as held:
            for _ in range(SLOTS - 1):
                held.enter_context(services_of(busy.application).database.read())
            assert busy.get("/health/ready").status_code == 200
            for _ in range(3):
                with ThreadPoolExecutor(1) as threads:
                    with database.read():
                        late = threads.submit(client.delete, USER)
                        eventually(lambda: database.stats().waiting == 1)
                        assert client.get("/health/ready").status_code == 200
                    assert late.result().status_code == 404
                assert statuses(client, 9) == [404] * 9
                time.sleep(GROW_SECONDS / 2)
            assert database.breaker.state is State.CLOSED
    text = (
        "connection pool continues with 1 of 5 connections: cannot connect to the database: FATAL: "
    )
    (line,) = [message for message in caplog.messages if message.startswith(text)]
    assert "\n" not in line


def test_no_room_for_a_single_connection_is_not_ready_until_there_is(
    postgres: PostgresServer, elsewhere: Settings
) -> None:
    app = create_app(elsewhere)
    with ExitStack() as held, closing(services_of(app)):
        for _ in range(SLOTS):
            held.enter_context(closing(psycopg2.connect(postgres.url)))
        assert app.test_client().get("/health/ready").status_code == 503
        held.close()
        eventually(lambda: app.test_client().get("/health/ready").status_code == 200)


def test_changed_password_is_read_from_its_file(password_file: Path, admin: cursor) -> None:
    with ExitStack() as stack:
        client = serving(stack, create_app())
        admin.execute("ALTER ROLE users PASSWORD 'new'")
        # The idle connection still serves, alone.
        assert statuses(client, 9) == [404] * 9
        assert client.get("/health/ready").status_code == 200
        terminate_all(admin)
        for _ in range(9):
            assert client.get(USER).status_code == 503
            assert client.get("/health/ready").status_code == 503
            health = client.get("/health")
            assert (health.status_code, json_of(health)["status"]) == (503, "unhealthy")
        password_file.write_text("new\n")
        eventually(lambda: client.get("/health/ready").status_code == 200)
        assert client.get(USER).status_code == 404


def test_invalid_file_keeps_the_known_password(password_file: Path, admin: cursor) -> None:
    with ExitStack() as stack:
        client = serving(stack, create_app())
        password_file.unlink()
        terminate_all(admin)
        assert client.get(USER).status_code == 404
        admin.execute("ALTER ROLE users PASSWORD 'new'")
        terminate_all(admin)
        assert client.get(USER).status_code == 503


def test_frozen_server_is_noticed_in_time(postgres: PostgresServer, elsewhere: Settings) -> None:
    with ExitStack() as stack:
        client = serving(stack, create_app(elsewhere))
        postgres.freeze()
        try:
            for _ in range(7):
                began = time.monotonic()
                assert client.get("/health/ready").status_code == 503
                assert time.monotonic() - began < 1
        finally:
            postgres.thaw()
        eventually(lambda: client.get("/health/ready").status_code == 200)
        assert json_of(client.get("/health"))["status"] == "healthy"


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1", "EUC_JP"])
def test_database_that_cannot_store_every_character_is_refused(
    postgres: PostgresServer,
    elsewhere: Settings,
    admin: cursor,
    caplog: pytest.LogCaptureFixture,
    encoding: str,
) -> None:
    name = f"in_{encoding.lower()}"
    admin.execute(
        f"CREATE DATABASE {name} OWNER users TEMPLATE template0 ENCODING '{encoding}'"
        " LOCALE_PROVIDER libc LOCALE 'C'"
    )
    app = create_app(with_url(elsewhere, postgres.url.removesuffix("users") + name))
    with closing(services_of(app)) as services:
        services.begin(lambda: False)
        (line,) = caplog.messages
        assert f"the encoding of the database must be UTF8, and is {encoding}" in line
        client = app.test_client()
        assert client.get("/health/ready").status_code == 503
        body = {"username": "ada", "email": "ada@example.com"}
        problem_of(client.post("/api/v1/users", json=body), 503)
    assert not tables(postgres.admin_url.removesuffix("users") + name)
    admin.execute(f"DROP DATABASE {name}")


def tables(url: str) -> list[tuple[object, ...]]:
    with closing(psycopg2.connect(url)) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        return cursor.fetchall()


def test_session_is_the_services_own_whatever_libpq_finds_in_the_environment(
    elsewhere: Settings, admin: cursor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGOPTIONS", "-c search_path=pg_catalog -c default_transaction_read_only=on")
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    admin.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public AUTHORIZATION users")
    with ExitStack() as stack:
        app = create_app(elsewhere)
        serving(stack, app)  # migrates
        with services_of(app).database.read() as cursor:
            cursor.execute(
                "SELECT current_setting('client_encoding'), current_setting('search_path'),"
                " current_setting('transaction_read_only'), 'users'::regclass::text"
            )
            assert cursor.fetchall() == [("UTF8", '"$user", public', "off", "users")]


@pytest.mark.parametrize(
    "form",
    [
        "postgresql://{who}@[::1]:{port}/users",
        "postgresql://{who}@nowhere.invalid:1,[::1]:{port}/users?target_session_attrs=read-write",
        "postgresql://{who}@%3A%3A1:{port}/users",
        "postgresql://{who}@[0:0:0:0:0:0:0:1]:{port}/users",
        "postgresql://{who}@/users?host=::1&port={port}",
        "postgresql://{who}@localhost:{port}/users?hostaddr=::1",
    ],
)
def test_ipv6_address_in_every_form(
    postgres: PostgresServer, settings: Settings, form: str
) -> None:
    url = form.format(who=postgres.url.split("/")[2].split("@")[0], port=postgres.port)
    with ExitStack() as stack:
        app = create_app(Settings.model_validate({"database_url": url}))
        serving(stack, app)
        with services_of(app).database.read() as cursor:
            cursor.execute("SELECT host(inet_server_addr())")
            assert cursor.fetchall() == [("::1",)]
