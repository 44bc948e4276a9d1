"""Migrations on a database of their own: once each, also at once, also after a kill."""

import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from flask import Flask
from psycopg2 import sql
from psycopg2.extensions import make_dsn, parse_dsn
from pydantic import SecretStr

from app import create_app
from user_service.database.migrate import ADVISORY_LOCK, MIGRATIONS, migrate, require_migrated
from user_service.errors import NotPrepared, Unavailable
from user_service.settings import Settings
from user_service.web.services import services_of

SERVICE = Path(__file__).parents[2] / "services" / "user-service"
OURS = sorted(file.stem for file in MIGRATIONS.glob("*.sql"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two small migrations."""
    write(tmp_path, "0001_planets", "CREATE TABLE planets (name text PRIMARY KEY)")
    write(tmp_path, "0002_earth", "INSERT INTO planets VALUES ('Earth'); SELECT '100 %';")
    return tmp_path


def write(folder: Path, name: str, statements: str) -> None:
    (folder / f"{name}.sql").write_text(statements, encoding="utf-8")


def query(dsn: str, statement: str, *values: object) -> list[Any]:
    """Return the first column."""
    with closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
        cursor.execute(statement, values)
        return [row[0] for row in cursor]


def applied(dsn: str) -> list[str]:
    return query(dsn, "SELECT name FROM schema_migrations ORDER BY name")


def tables(dsn: str) -> set[str]:
    return set(query(dsn, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"))


def eventually(condition: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.01)


def backends(dsn: str, wait_event: str) -> list[int]:
    """Return the process ids of the migrations that wait for ``wait_event``."""
    return query(
        dsn,
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'user-service migrations' AND wait_event = %s",
        wait_event,
    )


class TestOurMigrations:
    def test_are_applied_once_by_eight_at_once(self, dsn: str) -> None:
        start = threading.Barrier(8)

        def run(_number: int) -> list[str]:
            start.wait()
            return migrate(dsn)

        with ThreadPoolExecutor(8) as threads:
            results = list(threads.map(run, range(8)))
        assert sorted(results) == [[]] * 7 + [OURS]
        assert migrate(dsn) == []
        assert applied(dsn) == OURS
        ours = {"users", "users_count", "cursor_key", "idempotency_keys", "schema_migrations"}
        assert tables(dsn) == ours

    def test_count_users_that_were_there_before(self, dsn: str, tmp_path: Path) -> None:
        shutil.copy(MIGRATIONS / "0001_users.sql", tmp_path)
        migrate(dsn, tmp_path)
        with closing(psycopg2.connect(dsn)) as connection, connection:
            connection.cursor().execute(
                "INSERT INTO users (username, username_canonical, email, email_canonical)"
                " SELECT 'user' || n, 'user' || n, n || '@example.com', n || '@example.com'"
                " FROM generate_series(1, 1000) AS n"
            )
        migrate(dsn)
        assert query(dsn, "SELECT sum(number)::int FROM users_count") == [1000]
        assert query(dsn, "SELECT DISTINCT version FROM users") == [1]


class TestAnyMigrations:
    def test_pending_ones_are_applied_in_the_order_of_their_names(
        self, dsn: str, folder: Path
    ) -> None:
        assert migrate(dsn, folder) == ["0001_planets", "0002_earth"]
        write(folder, "0010_moons", "INSERT INTO moons VALUES ('Earth')")
        write(folder, "0003_moons", "CREATE TABLE moons (of text REFERENCES planets)")
        with pytest.raises(Unavailable, match="0003_moons, 0010_moons"):
            require_migrated(dsn, folder)
        assert migrate(dsn, folder) == ["0003_moons", "0010_moons"]
        require_migrated(dsn, folder)

    def test_newer_one_that_this_release_does_not_know_is_no_problem(
        self, dsn: str, folder: Path
    ) -> None:
        write(folder, "0003_mars", "INSERT INTO planets VALUES ('Mars')")
        migrate(dsn, folder)
        (folder / "0003_mars.sql").unlink()  # the release before, after a roll-back
        assert migrate(dsn, folder) == []
        require_migrated(dsn, folder)
        assert applied(dsn) == ["0001_planets", "0002_earth", "0003_mars"]

    def test_broken_one_rolls_back_all_that_was_pending(self, dsn: str, folder: Path) -> None:
        broken, correct = "CREATE TABEL comets ()", "CREATE TABLE comets ()"
        write(folder, "0003_moons", f"CREATE TABLE moons (); {broken}")
        with pytest.raises(psycopg2.errors.SyntaxError):
            migrate(dsn, folder)
        assert tables(dsn) == set()
        write(folder, "0003_moons", f"CREATE TABLE moons (); {correct}")
        migrate(dsn, folder)
        write(folder, "0004_broken", "DROP TABLE planets; SELECT 1 / 0;")
        with pytest.raises(psycopg2.errors.DivisionByZero):
            migrate(dsn, folder)
        assert query(dsn, "SELECT name FROM planets") == ["Earth"]
        assert applied(dsn) == ["0001_planets", "0002_earth", "0003_moons"]

    def test_those_that_wait_take_over_when_the_first_is_killed(
        self, dsn: str, folder: Path, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        slow = tmp_path_factory.mktemp("slow")
        write(slow, "0001_slow", "SELECT pg_sleep(60)")
        with ThreadPoolExecutor(4) as threads:
            first = threads.submit(migrate, dsn, slow)
            eventually(lambda: backends(dsn, "PgSleep"))
            others = [threads.submit(migrate, dsn, folder) for _ in range(3)]
            eventually(lambda: len(backends(dsn, "advisory")) == 3)
            query(dsn, "SELECT pg_terminate_backend(%s)", *backends(dsn, "PgSleep"))
            with pytest.raises(psycopg2.Error):
                first.result(30)
            results = sorted(other.result(30) for other in others)
        assert results == [[], [], ["0001_planets", "0002_earth"]]

    def test_lock_of_a_table_is_asked_for_after_growing_pauses_in_which_others_work(
        self,
        dsn: str,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setattr("user_service.database.migrate.LOCK_TIMEOUT", "100ms")
        migrate(dsn, folder)
        write(folder, "0003_mass", "ALTER TABLE planets ADD COLUMN mass float")
        pauses: list[float] = []
        with closing(psycopg2.connect(dsn)) as dump:
            dump.cursor().execute("SELECT * FROM planets")  # and its lock until the end

            def pause(seconds: float) -> None:
                pauses.append(seconds)
                assert query(dsn, "SELECT name FROM planets") == ["Earth"]
                if len(pauses) == 3:
                    dump.rollback()

            assert migrate(dsn, folder, sleep=pause) == ["0003_mass"]
        assert pauses == [1, 2, 4]
        warnings = [each.message for each in caplog.records if each.levelname == "WARNING"]
        reason = "canceling statement due to lock timeout"
        assert warnings == [f"migrations wait for a lock of another session: {reason}"]

    def test_nothing_pending_needs_neither_lock_nor_write(self, dsn: str, folder: Path) -> None:
        migrate(dsn, folder)
        read_only = make_dsn(dsn, options="-c default_transaction_read_only=on")
        with closing(psycopg2.connect(dsn)) as other:
            other.cursor().execute("SELECT pg_advisory_lock(%s)", (ADVISORY_LOCK,))
            assert migrate(read_only, folder) == []
        write(folder, "0003_moon", "INSERT INTO planets VALUES ('Moon')")
        with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction):
            migrate(read_only, folder)

    def test_statement_timeout_of_the_role_does_not_end_a_migration(
        self, dsn: str, folder: Path
    ) -> None:
        write(folder, "0003_slow", "SELECT pg_sleep(0.3)")
        hasty = make_dsn(dsn, options="-c statement_timeout=100ms")
        assert "0003_slow" in migrate(hasty, folder)

    def test_server_ends_the_migration_of_a_process_that_was_killed(
        self, dsn: str, folder: Path
    ) -> None:
        write(folder, "0003_slow", "SELECT pg_sleep(100)")
        program = (
            "import sys, pathlib; from user_service.database.migrate import migrate;"
            " migrate(sys.argv[1], pathlib.Path(sys.argv[2]))"
        )
        command = [sys.executable, "-c", program, dsn, str(folder)]
        with subprocess.Popen(command, cwd=SERVICE) as process:
            eventually(lambda: backends(dsn, "PgSleep"))
            process.kill()
        eventually(lambda: not backends(dsn, "PgSleep"))
        assert tables(dsn) == set()


def app_at(dsn: str, settings: Settings, **changes: object) -> Flask:
    url = "postgresql://{user}:{password}@{host}:{port}/{dbname}".format(**parse_dsn(dsn))
    return create_app(settings.model_copy(update={"database_url": SecretStr(url), **changes}))


def test_service_that_does_not_migrate_waits_for_the_process_that_does(
    dsn: str, settings: Settings
) -> None:
    app = app_at(dsn, settings, migrate_on_start=False)
    client = app.test_client()
    with closing(services_of(app)):
        for url in ("/health/ready", "/health", "/api/v1/users/1"):
            assert client.get(url).status_code == 503
        assert client.post("/api/v1/users", json={}).status_code == 400
        assert tables(dsn) == set()
        migrate(dsn)
        assert client.get("/health/ready").status_code == 200
        assert client.get("/api/v1/users/1").status_code == 404


@pytest.mark.parametrize("pending", [True, False], ids=["pending", "nothing pending"])
def test_service_that_starts_while_the_database_is_read_only(
    dsn: str, admin_dsn: str, settings: Settings, pending: bool
) -> None:
    if not pending:
        migrate(dsn)
    database = sql.Identifier(parse_dsn(dsn)["dbname"])
    read_only = sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on")
    reset = sql.SQL("ALTER DATABASE {} RESET default_transaction_read_only")
    app = app_at(dsn, settings)
    client = app.test_client()
    with closing(psycopg2.connect(admin_dsn)) as admin, closing(services_of(app)) as services:
        admin.autocommit = True
        admin.cursor().execute(read_only.format(database))
        services.begin(lambda: False)  # a worker that ends here takes gunicorn with it
        assert client.get("/health/ready").status_code == (503 if pending else 200)
        assert client.get("/api/v1/users/1").status_code == (503 if pending else 404)
        admin.cursor().execute(reset.format(database))
        eventually(lambda: client.get("/health/ready").status_code == 200)
        body = {"username": "ada", "email": "ada@example.com"}
        eventually(lambda: client.post("/api/v1/users", json=body).status_code == 201)


def test_refused_migration_ends_the_worker_and_tells_clients_nothing(
    dsn: str, settings: Settings
) -> None:
    with closing(psycopg2.connect(dsn)) as connection, connection:
        connection.cursor().execute("CREATE VIEW users AS SELECT 1")
    app = app_at(dsn, settings)
    with closing(services_of(app)) as services:
        with pytest.raises(NotPrepared):
            services.begin(lambda: False)
        client = app.test_client()
        for path in ("/health", "/health/ready", "/api/v1/users/1"):
            answer = client.get(path)
            assert answer.status_code == 503
            assert not re.search(rb"migrat|view|exist", answer.data)


def test_command_applies_pending_migrations_and_says_which(settings: Settings, dsn: str) -> None:
    app = app_at(dsn, settings)
    flask = app.test_cli_runner()
    assert flask.invoke(args=["migrate"]).output.splitlines() == OURS
    assert flask.invoke(args=["migrate"]).output == "nothing to migrate\n"
