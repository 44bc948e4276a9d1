"""Behind PgBouncer in transaction mode: a session is shared, and nobody notices."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import psycopg2
import pytest

from dev.servers import PostgresServer
from tests.faults.harness.standby import Standby
from tests.integration.queries import value
from tests.integration.users import ADA, URL
from tests.links import linked
from tests.pgbouncer import PgBouncer
from tests.responses import Serve, json_of, problem_of
from tests.waiting import eventually
from user_service.database.database import Database
from user_service.database.stored_keys import all_keys
from user_service.errors import DeadlineExceeded, Unavailable
from user_service.resilience import deadline
from user_service.settings import Settings
from user_service.web.services import services_of

SESSIONS = 2  # of PgBouncer in tests


@pytest.fixture
def pgbouncer(tmp_path: Path, database_url: str) -> Iterator[PgBouncer]:
    with PgBouncer(tmp_path / "pgbouncer", database_url) as started:
        yield started


def database_at(url: str) -> Database:
    return Database(url, size=8, statement_timeout=0.5, transaction_pooling=True)


@pytest.fixture
def database(pgbouncer: PgBouncer) -> Iterator[Database]:
    with closing(database_at(pgbouncer.url)) as opened:
        yield opened


def test_statement_timeout_holds_in_reads_and_in_transactions(database: Database) -> None:
    for borrow in (database.read, database.transaction):
        with deadline.within(5), pytest.raises(Unavailable, match="57014"), borrow() as cursor:
            cursor.execute("SELECT pg_sleep(10)")
    assert database.pool.lent == 0


def test_sessions_keep_nothing_of_ours_and_change_nothing_for_us(
    pgbouncer: PgBouncer, database: Database
) -> None:
    with (
        closing(psycopg2.connect(pgbouncer.url)) as one,
        closing(psycopg2.connect(pgbouncer.url)) as other,
    ):
        for client in (one, other):  # in a transaction each, hence in a session each
            client.cursor().execute("SET statement_timeout = '7s'; SET enable_indexscan = off")
        for client in (one, other):
            client.commit()
        all_keys(pgbouncer.url)
        for borrow in (database.read, database.transaction):
            with borrow() as cursor:
                assert value(cursor, "SHOW statement_timeout") == "500ms"
                assert value(cursor, "SELECT now()::text || current_setting('timezone')")
                assert value(cursor, "SHOW timezone") == "UTC"
        for client in (one, other):
            assert value(client.cursor(), "SHOW statement_timeout") == "7s"


def test_two_processes_share_two_sessions(pgbouncer: PgBouncer) -> None:
    processes = [database_at(pgbouncer.url), database_at(pgbouncer.url)]

    def work(number: int) -> tuple[object, object]:
        database = processes[number % 2]
        with database.transaction() as cursor:
            pid = value(cursor, "SELECT pg_backend_pid()")
            cursor.execute(
                "INSERT INTO users (username, username_canonical, email, email_canonical)"
                " VALUES (%(name)s, %(name)s, %(email)s, %(email)s)",
                {"name": f"user{number}", "email": f"user{number}@example.com"},
            )
        with database.read() as cursor:
            name = f"SELECT username FROM users WHERE username_canonical = 'user{number}'"
            return pid, value(cursor, name)

    with ThreadPoolExecutor(16) as threads:
        done = list(threads.map(work, range(200)))
    assert [name for _, name in done] == [f"user{number}" for number in range(200)]
    assert len({pid for pid, _ in done}) == SESSIONS
    for database in processes:
        database.close()


def test_deadline_gives_the_session_back(database: Database) -> None:
    for _ in range(2 * SESSIONS):
        with deadline.within(0.1), pytest.raises(DeadlineExceeded), database.read() as cursor:
            cursor.execute("SELECT pg_sleep(10)")
    assert database.pool.lent == 0
    with deadline.within(5), database.read() as cursor:
        assert value(cursor, "SELECT 1") == 1


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"db_transaction_pooling": True})


def test_replica_may_be_behind_one_of_its_own(serving: Serve, tmp_path: Path) -> None:
    with (
        PostgresServer(tmp_path / "primary", durable=False) as primary,
        Standby(tmp_path / "standby", primary) as standby,
        PgBouncer(tmp_path / "one", primary.url) as one,
        PgBouncer(tmp_path / "other", standby.url) as other,
    ):
        client = serving(database_url=one.url, database_replica_url=other.url)
        replica = services_of(client.application).replica
        assert replica is not None
        place = client.post(URL, json=ADA).headers["Location"]
        eventually(lambda: client.get(place).status_code == 200 and replica.reads > 0)
        fallbacks = replica.fallbacks
        assert json_of(client.get(place))["username"] == "ada"
        assert len(json_of(client.get(URL))["users"]) == 1
        assert replica.fallbacks == fallbacks


@pytest.mark.parametrize("where", ["before PgBouncer", "behind PgBouncer"])
@pytest.mark.parametrize("stored", [True, False])
def test_lost_answer_to_commit_is_an_unknown_outcome_unless_there_is_a_key(
    serving: Serve, database_url: str, tmp_path: Path, where: str, stored: bool
) -> None:
    with (
        linked(database_url) as (behind, server_url),
        PgBouncer(tmp_path / "pgbouncer", server_url) as pgbouncer,
        linked(pgbouncer.url) as (before, url),
    ):
        client = serving(database_url=url)
        link = before if where == "before PgBouncer" else behind
        assert client.get(URL).status_code == 200
        link.cut_commits(1, forward=stored)
        problem = problem_of(client.post(URL, json=ADA), 503)
        assert problem["type"] == "urn:user-service:problem:outcome-unknown"
        assert link.commits_cut == 1
        assert len(json_of(client.get(URL))["users"]) == stored
        link.cut_commits(1, forward=True)
        eva = {"username": "eva", "email": "eva@example.com"}
        created = client.post(URL, json=eva, headers={"Idempotency-Key": uuid4().hex})
        assert link.commits_cut == 1
        assert created.status_code == 201
        assert json_of(client.get(created.headers["Location"]))["username"] == "eva"
