"""A PostgreSQL that refuses connections, or that is set up in another way."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import psycopg2
import pytest
from flask.testing import FlaskClient
from psycopg2.extensions import cursor

from dev.servers import PostgresServer
from tests.application import serving_environment
from tests.faults.harness.standby import rows
from tests.integration.queries import value
from tests.integration.users import ADA, URL, USER, create, first_page, names
from tests.pgbouncer import PgBouncer
from tests.responses import Serve, json_of, problem_of
from tests.waiting import eventually
from user_service.database.database import Database
from user_service.database.stored_keys import add_key, valid_keys
from user_service.domain.api_key import new_key
from user_service.errors import OutcomeUnknown, PoolTimeout
from user_service.resilience import deadline
from user_service.settings import Settings
from user_service.web.services import services_of

SLOTS = 5


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
def on_it(postgres: PostgresServer, serving: Serve) -> Serve:
    """Return a function that makes a client of a service on this server."""

    def serve(**changed: object) -> FlaskClient:
        client = serving(**{"database_url": postgres.url, **changed})
        services_of(client.application).open()
        return client

    return serve


def statuses(client: FlaskClient, number: int) -> list[int]:
    """Return the statuses of as many requests at once."""
    clients = [client.application.test_client() for _ in range(number)]
    with ThreadPoolExecutor(number) as threads:
        return list(threads.map(lambda each: each.delete(USER).status_code, clients))


def test_pool_stays_within_the_limit_of_the_role(
    postgres: PostgresServer, admin: cursor, on_it: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    urls = {"database_url": postgres.service_url, "database_owner_url": postgres.url}
    admin.execute("ALTER ROLE users_service CONNECTION LIMIT 1")
    assert statuses(on_it(**urls), 9) == [404] * 9
    admin.execute("ALTER ROLE users_service CONNECTION LIMIT 90")
    text = "connection pool continues with 1 of 10 connections: cannot connect to the database: "
    (line,) = [message for message in caplog.messages if message.startswith(f"{text}FATAL: ")]
    assert "\n" not in line


@pytest.mark.parametrize("by", ["", "PgBouncer"])
def test_commits_that_wait_for_a_standby_keep_their_slots_and_leave_one_for_reads(
    on_it: Serve, admin: cursor, postgres: PostgresServer, tmp_path: Path, by: str
) -> None:
    on_it()  # migrates
    with ExitStack() as stack:
        url = postgres.url
        if by:
            options = {"default_pool_size": "3"}
            url = stack.enter_context(PgBouncer(tmp_path, postgres.url, options=options)).url
        database = Database(url, size=3, checkout_timeout=0.2, transaction_pooling=bool(by))
        stack.enter_context(closing(database))

        def write(slot: int) -> None:
            touch = "UPDATE users_count SET number = number WHERE slot = %(slot)s"
            with database.write(touch, {"slot": slot}):
                pass

        with standby_away(admin):
            for slot in range(2):
                with pytest.raises(OutcomeUnknown), deadline.within(0.3):
                    write(slot)
            for slot in range(3):
                with pytest.raises(PoolTimeout):
                    write(slot)
                assert database.is_ready()
            sessions = "SELECT count(*) FROM pg_stat_activity WHERE "
            assert value(admin, f"{sessions} wait_event = 'SyncRep'") == 2
            # PgBouncer would have given the sessions of clients that left to others.
            assert value(admin, f"{sessions} usename = 'users'") in (3, 4)  # with the migrations'
            assert database.pool.lent == 2
        eventually(lambda: database.pool.lent == 0)
        write(0)


def test_pages_show_a_commit_whose_answer_came_late(on_it: Serve, admin: cursor) -> None:
    client = on_it(request_timeout=1, redis_timeout=1)
    create(client, "ada")
    with standby_away(admin):
        problem_of(client.patch(USER, json={"username": "grace"}), 503)
        assert [first_page(client) for _ in range(2)] == [(["ada"], "MISS"), (["ada"], "HIT")]
    eventually(lambda: names(client) == ["grace"], timeout=20)  # before the page would expire
    admin.execute("TRUNCATE users RESTART IDENTITY")


def test_day_of_last_use_waits_for_no_standby(
    on_it: Serve, admin: cursor, postgres: PostgresServer
) -> None:
    database = services_of(on_it().application).database
    _, key = new_key("reader", frozenset({"users:read"}), None)
    add_key(postgres.url, key)
    with standby_away(admin):
        valid_keys(database, frozenset({key.prefix}))
        assert valid_keys(database, frozenset())[key.prefix].last_used_on is not None
        assert database.pool.lent == 0


@contextmanager
def standby_away(admin: cursor) -> Iterator[None]:
    """Have each commit wait for a standby that is not there, until the end of the block."""
    wait_for(admin, "gone")
    try:
        yield
    finally:
        wait_for(admin, "")


def wait_for(admin: cursor, standby: str) -> None:
    """Have each commit wait for ``standby``; without one, those that wait go on."""
    admin.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{standby}'")
    admin.execute("SELECT pg_reload_conf()")
    eventually(lambda: value(admin, "SHOW synchronous_standby_names") == standby)
    # The checkpointer makes commits wait, and reads its settings before it works.
    admin.execute("CHECKPOINT")


def test_pools_that_want_more_than_there_is_share_it_and_stay_ready(on_it: Serve) -> None:
    services = [on_it() for _ in range(3)]

    def use(client: FlaskClient) -> list[int]:
        ready = [client.get("/health/ready").status_code for _ in range(9)]
        return [*statuses(client, 9), *ready]

    with ThreadPoolExecutor(3) as threads:
        for found in threads.map(use, services):
            assert found == [404] * 9 + [200] * 9


def test_no_room_for_a_connection_is_not_ready(postgres: PostgresServer, serving: Serve) -> None:
    client = serving(database_url=postgres.url)
    with ExitStack() as held:
        for _ in range(SLOTS):
            held.enter_context(closing(psycopg2.connect(postgres.url)))
        assert client.get("/health/ready").status_code == 503
    eventually(lambda: client.get("/health/ready").status_code == 200)


def test_changed_password_is_read_from_its_file_and_without_it_the_known_one_is_kept(
    postgres: PostgresServer, admin: cursor, settings: Settings, tmp_path: Path
) -> None:
    terminate = (
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = 'users'"
    )
    password, file = postgres.url.split(":")[2].split("@")[0], tmp_path / "password"
    file.write_text(password)
    parts = {"DB_HOST": "127.0.0.1", "DB_PORT": str(postgres.port), "DB_PASSWORD_FILE": str(file)}
    with serving_environment(**parts, REDIS_URL=settings.redis_dsn) as client:
        services_of(client.application).open()
        file.unlink()
        admin.execute(terminate)
        assert client.get(USER).status_code == 404
        try:
            admin.execute("ALTER ROLE users PASSWORD 'new'")
            # The idle connection still serves, alone.
            assert statuses(client, 9) == [404] * 9
            assert client.get("/health/ready").status_code == 200
            admin.execute(terminate)
            paths = (USER, "/health/ready", "/health")
            for _ in range(9):
                assert [client.get(path).status_code for path in paths] == [503] * 3
            assert json_of(client.get("/health"))["status"] == "unhealthy"
            file.write_text("new\n")
            eventually(lambda: client.get("/health/ready").status_code == 200)
            assert client.get(USER).status_code == 404
        finally:
            admin.execute("ALTER ROLE users PASSWORD %s", (password,))


def test_frozen_server_is_noticed_in_time(postgres: PostgresServer, on_it: Serve) -> None:
    client = on_it(request_timeout=100, db_statement_timeout=100)
    postgres.freeze()
    try:
        began = time.monotonic()
        for _ in range(7):
            assert client.get("/health/ready").status_code == 503
        assert time.monotonic() - began < 60  # a request may take 100 s, and a check one
    finally:
        postgres.thaw()
    eventually(lambda: client.get("/health/ready").status_code == 200)
    assert json_of(client.get("/health"))["status"] == "healthy"


def test_database_that_cannot_store_every_character_is_refused(
    postgres: PostgresServer, serving: Serve, admin: cursor, caplog: pytest.LogCaptureFixture
) -> None:
    admin.execute(
        "CREATE DATABASE in_ascii OWNER users TEMPLATE template0 ENCODING 'SQL_ASCII'"
        " LOCALE_PROVIDER libc LOCALE 'C'"
    )
    client = serving(database_url=postgres.url.removesuffix("users") + "in_ascii")
    with closing(services_of(client.application)) as services:
        services.begin(lambda: False)
        (line,) = caplog.messages
        assert "the encoding of the database must be UTF8, and is SQL_ASCII" in line
        assert client.get("/health/ready").status_code == 503
        problem_of(client.post(URL, json=ADA), 503)
    tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
    assert rows(postgres.admin_url.removesuffix("users") + "in_ascii", tables) == []
    admin.execute("DROP DATABASE in_ascii")


def test_session_is_the_services_own_whatever_libpq_finds_in_the_environment(
    on_it: Serve, admin: cursor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGOPTIONS", "-c search_path=pg_catalog -c default_transaction_read_only=on")
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    admin.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public AUTHORIZATION users")
    with services_of(on_it().application).database.read() as cursor:  # after the migration
        assert value(cursor, "SHOW client_encoding") == "UTF8"
        assert value(cursor, "SHOW search_path") == '"$user", public'
        assert value(cursor, "SHOW transaction_read_only") == "off"
        assert value(cursor, "SELECT 'users'::regclass::text") == "users"


@pytest.mark.parametrize(
    "form",
    [
        "postgresql://{who}@[::1]:{port}/users",
        "postgresql://{who}@nowhere.invalid:1,[::1]:{port}/users?target_session_attrs=read-write",
        "postgresql://{who}@[0:0:0:0:0:0:0:1]:{port}/users",
        "postgresql://{who}@/users?host=::1&port={port}",
        "postgresql://{who}@localhost:{port}/users?hostaddr=::1",
    ],
)
def test_ipv6_address_in_every_form(postgres: PostgresServer, on_it: Serve, form: str) -> None:
    url = form.format(who=postgres.url.split("/")[2].split("@")[0], port=postgres.port)
    with services_of(on_it(database_url=url).application).database.read() as cursor:
        assert value(cursor, "SELECT host(inet_server_addr())") == "::1"
