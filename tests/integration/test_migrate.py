"""Migrations on a database of their own: once each, also at once, also after a kill."""

import io
import re
import shutil
import signal
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from psycopg2.errors import InsufficientPrivilege
from psycopg2.extensions import make_dsn, parse_dsn
from pytest_mock import MockerFixture

from tests.e2e.service import SERVICE
from tests.faults.harness.standby import rows
from tests.integration.users import ADA, URL, USER
from tests.responses import Serve
from tests.servers import Servers
from tests.waiting import eventually
from user_service.database.migrate import (
    ADVISORY_LOCK,
    MIGRATIONS,
    PRIVILEGES,
    migrate,
    require_migrated,
)
from user_service.domain.names import canonical_username
from user_service.errors import DeadlineExceeded, NotPrepared, Unavailable
from user_service.web.services import services_of

OURS = sorted(file.stem for file in MIGRATIONS.glob("*.sql"))
PROGRAM = (
    "import sys, pathlib; from user_service.database.migrate import migrate;"
    " migrate(sys.argv[1], pathlib.Path(sys.argv[2]))"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two small migrations."""
    write(tmp_path, "0001_planets", "CREATE TABLE planets (name text PRIMARY KEY)")
    write(tmp_path, "0002_earth", "INSERT INTO planets VALUES ('Earth'); SELECT '100 %';")
    return tmp_path


@pytest.fixture
def service_dsn(servers: Servers, dsn: str) -> str:
    """The same database, as the service's role."""
    return str(make_dsn(servers.database_url, dbname=parse_dsn(dsn)["dbname"]))


def write(folder: Path, name: str, statements: str) -> None:
    (folder / f"{name}.sql").write_text(statements, encoding="utf-8")


def column(dsn: str, statement: str) -> list[Any]:
    """Return the first column."""
    return [row[0] for row in rows(dsn, statement)]


def applied(dsn: str) -> list[str]:
    return column(dsn, "SELECT name FROM schema_migrations ORDER BY name")


def tables(dsn: str) -> set[str]:
    return set(column(dsn, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"))


def waiting(dsn: str, wait_event: str) -> int:
    """Return the number of migrations that wait for ``wait_event``."""
    (number,) = column(
        dsn,
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        f" AND application_name = 'user-service migrations' AND wait_event = '{wait_event}'",
    )
    return int(number)


def test_ours_are_applied_once_by_eight_at_once(
    dsn: str, service_dsn: str, log: io.StringIO
) -> None:
    strict = make_dsn(dsn, options="-c default_transaction_isolation=serializable")
    with closing(psycopg2.connect(dsn)) as other, ThreadPoolExecutor(8) as threads:
        other.cursor().execute("SELECT pg_advisory_xact_lock(%s)", (ADVISORY_LOCK,))
        starts = [threads.submit(migrate, service_dsn, owner_dsn=strict) for _ in range(8)]
        eventually(lambda: waiting(dsn, "advisory") == 8)
        other.rollback()
        results = [each.result(30) for each in starts]
    assert sorted(results) == [[]] * 7 + [OURS]
    assert log.getvalue().count("waiting for another process that migrates") == 8
    assert applied(dsn) == OURS
    assert tables(dsn) == PRIVILEGES.keys()
    require_migrated(service_dsn)


def test_role_that_is_named_later_gets_its_privileges(dsn: str, service_dsn: str) -> None:
    migrate(dsn)
    with pytest.raises(Unavailable, match="GRANT DELETE ON users TO users_service"):
        require_migrated(service_dsn)
    assert migrate(service_dsn, owner_dsn=dsn) == []
    require_migrated(service_dsn)
    read_only = make_dsn(dsn, options="-c default_transaction_read_only=on")
    assert migrate(service_dsn, owner_dsn=read_only) == []


# What an attacker could do who can run any statement as the service.
FORBIDDEN = """
CREATE TABLE notes (note text)
CREATE TEMPORARY TABLE notes (note text)
CREATE SCHEMA other
CREATE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 1'
CREATE TRIGGER spy BEFORE INSERT ON users FOR EACH ROW EXECUTE FUNCTION count_users()
CREATE INDEX ON users (email)
CREATE ROLE other
CREATE DATABASE other
DROP EXTENSION plpgsql
ALTER TABLE users ADD COLUMN note text
ALTER TABLE users DISABLE TRIGGER ALL
ALTER TABLE users OWNER TO users_service
ALTER FUNCTION count_users() RENAME TO other
ALTER ROLE users PASSWORD 'known'
ALTER ROLE users_service CONNECTION LIMIT -1
ALTER SYSTEM SET log_statement = 'all'
DROP TABLE users
DROP INDEX users_created_at_key
TRUNCATE users
SET ROLE users
SET session_replication_role = replica
SELECT setval('users_id_seq', 1)
SELECT rolpassword FROM pg_authid
SELECT pg_read_file('PG_VERSION')
COPY users TO PROGRAM 'cat'
COPY users FROM '/etc/passwd'
INSERT INTO schema_migrations (name) VALUES ('9999')
UPDATE schema_migrations SET name = 'other'
DELETE FROM schema_migrations
UPDATE cursor_key SET key = 'known'
DELETE FROM cursor_key
INSERT INTO api_keys (prefix, name, digest, scopes) VALUES ('known', 'known', '', '{}')
UPDATE api_keys SET revoked_at = NULL
DELETE FROM api_keys
"""


def test_services_role_can_do_nothing_that_it_does_not_need(database_url: str) -> None:
    allowed = []
    with closing(psycopg2.connect(database_url)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        for statement in FORBIDDEN.strip().splitlines():
            with suppress(InsufficientPrivilege):
                cursor.execute(statement)
                allowed.append(statement)
    assert allowed == []


def test_ours_count_users_that_were_there_and_report_names_that_are_refused_now(
    dsn: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(MIGRATIONS / "0001_users.sql", tmp_path)
    migrate(dsn, tmp_path)
    refused = [
        *(("ada1", "adaa\uff20bank.com@evil.com"), ("ada2", "aa\u2024b@example.com")),
        *(("ada3", "ada@example\u3002com"), ("\u2800" * 3, "a@example.com")),
        *(("\u0301" * 3, "b@example.com"), ("\uff9e" * 3, "c@example.com")),
        *(("\u00df" * 26, "d@example.com"), ("ada6", "ada\xa8@example.com")),
        ("\xa8ab", "g@example.com"),
    ]
    accepted = [
        *(("ada4", "ada.l+x@b\xfccher.example"), ("\u674e\u5c0f\u9f99", "e@example.com")),
        *(("Ren\u0065\u0301e", "f@example.com"), ("ada5", "ada!l@example.com")),
    ]
    with closing(psycopg2.connect(dsn)) as opened, opened, opened.cursor() as cursor:
        for username, email in refused + accepted:
            local_part, _, domain = email.rpartition("@")
            # What an earlier release stored: in IDNA, U+3002 separates labels.
            canonical = f"{canonical_username(local_part)}@{domain.replace(chr(0x3002), '.')}"
            cursor.execute(
                "INSERT INTO users (username, username_canonical, email, email_canonical)"
                " VALUES (%s, %s, %s, %s)",
                (username, canonical_username(username), email, canonical),
            )
    migrate(dsn)
    (line,) = [each.message for each in caplog.records if each.levelname == "WARNING"]
    assert f": at least {len(refused)} users have names that are refused now" in line
    assert column(dsn, "SELECT sum(number)::int FROM users_count") == [len(refused + accepted)]
    assert column(dsn, "SELECT DISTINCT version FROM users") == [1]


def test_ours_keep_stored_responses_and_let_principals_share_a_key(
    dsn: str, tmp_path: Path
) -> None:
    shutil.copy(MIGRATIONS / "0006_idempotency_keys.sql", tmp_path)
    migrate(dsn, tmp_path)
    columns = "key, route, fingerprint, status, headers, body"
    values = "'k', 'r', '', 201, '{}', ''"
    rows(dsn, f"INSERT INTO idempotency_keys ({columns}) VALUES ({values})")
    shutil.copy(MIGRATIONS / "0009_idempotency_principal.sql", tmp_path)
    migrate(dsn, tmp_path)
    insert = f"INSERT INTO idempotency_keys (principal, {columns}) VALUES ('key:a', {values})"
    rows(dsn, insert)
    stored = column(dsn, "SELECT principal FROM idempotency_keys WHERE key = 'k' ORDER BY 1")
    assert stored == ["", "key:a"]


def test_pending_ones_are_applied_in_the_order_of_their_names(dsn: str, folder: Path) -> None:
    assert migrate(dsn, folder) == ["0001_planets", "0002_earth"]
    write(folder, "0010_moons", "INSERT INTO moons VALUES ('Earth'); SELECT pg_sleep(0.3)")
    write(folder, "0003_moons", "CREATE TABLE moons (of text REFERENCES planets)")
    with pytest.raises(Unavailable, match="0003_moons, 0010_moons"):
        require_migrated(dsn, folder)
    # The role's time-outs are for the service's statements.
    hasty = make_dsn(dsn, options="-c statement_timeout=100ms -c transaction_timeout=200ms")
    assert migrate(hasty, folder) == ["0003_moons", "0010_moons"]
    require_migrated(dsn, folder)
    (folder / "0010_moons.sql").unlink()  # the release before, after a roll-back
    assert migrate(dsn, folder) == []
    require_migrated(dsn, folder)
    assert applied(dsn) == ["0001_planets", "0002_earth", "0003_moons", "0010_moons"]


def test_broken_one_rolls_back_all_that_was_pending(dsn: str, folder: Path) -> None:
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
    assert column(dsn, "SELECT name FROM planets") == ["Earth"]
    assert applied(dsn) == ["0001_planets", "0002_earth", "0003_moons"]


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGKILL])
def test_those_that_wait_take_over_when_the_process_that_migrates_is_killed(
    dsn: str, folder: Path, tmp_path_factory: pytest.TempPathFactory, by: signal.Signals
) -> None:
    slow = tmp_path_factory.mktemp("slow")
    write(slow, "0001_slow", "CREATE TABLE half (); SELECT pg_sleep(100)")
    command = [sys.executable, "-c", PROGRAM, dsn, str(slow)]
    with subprocess.Popen(command, cwd=SERVICE) as first, ThreadPoolExecutor(3) as threads:
        eventually(lambda: waiting(dsn, "PgSleep") == 1)
        others = [threads.submit(migrate, dsn, folder) for _ in range(3)]
        eventually(lambda: waiting(dsn, "advisory") == 3)
        first.send_signal(by)
        results = sorted(other.result(30) for other in others)
    assert results == [[], [], ["0001_planets", "0002_earth"]]
    assert "half" not in tables(dsn)


def test_lock_of_a_table_is_asked_for_after_growing_pauses_in_which_others_work(
    dsn: str, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("user_service.database.migrate.LOCK_TIMEOUT", "100ms")
    migrate(dsn, folder)
    write(folder, "0003_mass", "ALTER TABLE planets ADD COLUMN mass float")
    pauses: list[float] = []
    others: list[Future[list[str]]] = []
    with closing(psycopg2.connect(dsn)) as dump, ThreadPoolExecutor(1) as threads:
        dump.cursor().execute("SELECT * FROM planets")  # and its lock until the end

        def pause(seconds: float) -> None:
            if not pauses:  # another process waits instead of asking for the table too
                others.append(threads.submit(migrate, dsn, folder))
            eventually(lambda: waiting(dsn, "advisory") == 1)
            pauses.append(seconds)
            assert column(dsn, "SELECT name FROM planets") == ["Earth"]
            if len(pauses) == 3:
                dump.rollback()

        assert migrate(dsn, folder, sleep=pause) == ["0003_mass"]
        assert others[0].result(30) == []
    assert pauses == [1, 2, 4]
    warnings = [each.message for each in caplog.records if each.levelname == "WARNING"]
    reason = "canceling statement due to lock timeout"
    assert warnings == [f"migrations wait for a lock of another session: {reason}"]


def test_nothing_pending_needs_neither_lock_nor_write(
    dsn: str, service_dsn: str, folder: Path
) -> None:
    migrate(dsn, folder)
    rows(dsn, "GRANT SELECT ON schema_migrations TO users_service")
    assert migrate(service_dsn, folder) == []  # its role may not CREATE
    read_only = make_dsn(dsn, options="-c default_transaction_read_only=on")
    with closing(psycopg2.connect(dsn)) as other:
        other.cursor().execute("SELECT pg_advisory_lock(%s)", (ADVISORY_LOCK,))
        assert migrate(read_only, folder) == []
    write(folder, "0003_moon", "INSERT INTO planets VALUES ('Moon')")
    with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction):
        migrate(read_only, folder)


def test_look_without_an_answer_ends(dsn: str, folder: Path, mocker: MockerFixture) -> None:
    migrate(dsn, folder)
    mocker.patch("user_service.database.migrate.LOOK_SECONDS", 0.5)
    with closing(psycopg2.connect(dsn)) as other:
        other.cursor().execute("LOCK TABLE schema_migrations")
        with pytest.raises(DeadlineExceeded):
            migrate(dsn, folder)
    assert migrate(dsn, folder) == []


def test_service_waits_for_the_command(dsn: str, serving: Serve) -> None:
    client = serving(database_url=dsn, migrate_on_start=False)
    for path in ("/health/ready", "/health", USER):
        assert client.get(path).status_code == 503
    assert client.post(URL, json={}).status_code == 400
    assert tables(dsn) == set()
    flask = client.application.test_cli_runner()
    assert flask.invoke(args=["migrate"]).output.splitlines() == OURS
    assert flask.invoke(args=["migrate"]).output == "nothing to migrate\n"
    assert client.get("/health/ready").status_code == 200
    assert client.get(USER).status_code == 404


@pytest.mark.parametrize("pending", [True, False], ids=["pending", "nothing pending"])
def test_service_that_starts_while_the_database_is_read_only(
    dsn: str, servers: Servers, serving: Serve, pending: bool
) -> None:
    if not pending:
        migrate(dsn)
    database = parse_dsn(dsn)["dbname"]
    client = serving(database_url=dsn)
    rows(servers.admin_url, f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    # A worker that ends here takes gunicorn with it.
    services_of(client.application).begin(lambda: False)
    assert client.get("/health/ready").status_code == (503 if pending else 200)
    assert client.get(USER).status_code == (503 if pending else 404)
    rows(servers.admin_url, f"ALTER DATABASE {database} RESET default_transaction_read_only")
    eventually(lambda: client.get("/health/ready").status_code == 200)
    eventually(lambda: client.post(URL, json=ADA).status_code == 201)


def test_refused_migration_ends_the_worker_without_details(dsn: str, serving: Serve) -> None:
    rows(dsn, "CREATE VIEW users AS SELECT 1")
    client = serving(database_url=dsn)
    with pytest.raises(NotPrepared):
        services_of(client.application).begin(lambda: False)
    ended = client.application.test_cli_runner().invoke(args=["migrate"])
    assert re.fullmatch("Error: the database refuses: .+\n", ended.output)
    for path in ("/health", "/health/ready", USER):
        answer = client.get(path)
        assert answer.status_code == 503
        assert not re.search(rb"migrat|view|exist", answer.data)
