"""The database, on a real PostgreSQL: lost connections, time-outs, transactions."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import psycopg2
import pytest
from psycopg2.extensions import cursor

from tests.integration.queries import value
from tests.integration.users import USER
from tests.responses import Serve, json_of, problem_of
from tests.waiting import eventually
from user_service.database.database import Database
from user_service.errors import DeadlineExceeded, OutcomeUnknown, TransientFailure, Unavailable
from user_service.resilience import deadline
from user_service.resilience.breaker import State
from user_service.web.services import services_of

SIZE = 3


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = Database(database_url, size=SIZE, checkout_timeout=0.2, statement_timeout=0.5)
    yield opened
    opened.close()


def backend_pids(database: Database) -> set[int]:
    """Return the server's process ids of all connections of the pool."""
    together = threading.Barrier(SIZE)

    def pid(_: int) -> int:
        with database.read() as cursor:
            together.wait(10)  # so that each thread holds a connection of its own
            cursor.execute("SELECT 1")
            return cursor.connection.info.backend_pid

    with ThreadPoolExecutor(SIZE) as threads:
        return set(threads.map(pid, range(SIZE)))


def test_sessions_and_transactions_have_their_own_settings(database: Database) -> None:
    with database.read() as cursor:
        assert value(cursor, "SHOW statement_timeout") == "500ms"
        assert value(cursor, "SHOW timezone") == "UTC"
        cursor.ahead_of_next = "SET LOCAL jit = off; SET LOCAL enable_seqscan = off; "
        assert value(cursor, "SHOW enable_seqscan") == "off"
        assert value(cursor, "SHOW enable_seqscan") == "on"
        cursor.execute("SET default_transaction_isolation = serializable")
    with database.transaction() as cursor:
        assert value(cursor, "SHOW transaction_isolation") == "read committed"


def test_transaction_begins_with_its_first_statement_and_ends_as_one(database: Database) -> None:
    with database.transaction() as cursor:
        first = value(cursor, "SELECT pg_current_xact_id()::text")
        assert b"BEGIN" in (cursor.query or b"")
        assert value(cursor, "SELECT pg_current_xact_id()::text") == first
        assert b"BEGIN" not in (cursor.query or b"")
    with database.read() as cursor:
        assert value(cursor, "SELECT pg_xact_status(%s::xid8)", first) == "committed"
        # A read has no transaction of its own.
        first = value(cursor, "SELECT pg_current_xact_id()::text")
        assert value(cursor, "SELECT pg_current_xact_id()::text") != first


def test_connections_are_reused_after_failures(database: Database, admin: cursor) -> None:
    pids = backend_pids(database)
    assert len(pids) == SIZE
    with pytest.raises(ZeroDivisionError), database.transaction() as cursor:
        cursor.execute(insert_in(seconds=0))
        _ = 1 / 0
    with pytest.raises(psycopg2.errors.DivisionByZero), database.transaction() as cursor:
        cursor.execute("SELECT 1 / 0")
    with pytest.raises(psycopg2.errors.SyntaxError), database.transaction() as cursor:
        cursor.execute("SELEKT")  # refused before BEGIN was even done
    states = "SELECT DISTINCT state FROM pg_stat_activity WHERE pid = ANY(%s)"
    assert value(admin, states, list(pids)) == "idle"
    assert value(admin, "SELECT count(*) FROM users") == 0
    assert backend_pids(database) == pids
    assert database.pool.lent == 0


def insert_in(seconds: float) -> str:
    return (
        "INSERT INTO users (username, username_canonical, email, email_canonical)"
        f" SELECT 'ada', 'ada', 'ada@example.com', 'ada@example.com' FROM pg_sleep({seconds})"
    )


def read(database: Database, statement: str) -> None:
    with database.read() as cursor:
        cursor.execute(statement)


def write(database: Database, statement: str) -> None:
    with database.write(statement, {}) as cursor:
        assert cursor.rowcount == 1


def transact(database: Database, statement: str) -> None:
    with database.transaction() as cursor:
        cursor.execute(statement)


Use = Callable[[Database, str], None]


@pytest.mark.parametrize(
    ("use", "raised"),
    [(read, TransientFailure), (write, OutcomeUnknown), (transact, TransientFailure)],
)
def test_connection_lost_in_use_is_replaced(
    database: Database, use: Use, raised: type[Unavailable]
) -> None:
    """Of a write that commits itself, the outcome is unknown."""
    with pytest.raises(raised):
        use(database, "SELECT pg_terminate_backend(pg_backend_pid(), 5000)")
    assert database.pool.lent == 0
    assert len(backend_pids(database)) == SIZE


def test_connection_lost_while_idle_costs_no_write(database: Database, admin: cursor) -> None:
    for pid in backend_pids(database):
        assert value(admin, "SELECT pg_terminate_backend(%s, 5000)", pid)
    write(database, insert_in(seconds=0))
    assert database.pool.lent == 0


@pytest.mark.parametrize(
    ("use", "raised", "stored"), [(write, OutcomeUnknown, 1), (transact, DeadlineExceeded, 0)]
)
def test_deadline_during_a_statement(
    database: Database, admin: cursor, use: Use, raised: type[Unavailable], stored: int
) -> None:
    """The server goes on, and a write commits itself: nothing can be told from the silence."""
    with pytest.raises(raised), deadline.within(0.1):
        use(database, insert_in(seconds=0.3))
    time.sleep(0.4)
    eventually(lambda: value(admin, "SELECT count(*) FROM users") == stored)
    assert database.pool.lent == 0


def test_write_that_the_server_refuses_commits_nothing(database: Database, admin: cursor) -> None:
    pids = backend_pids(database)
    with pytest.raises(Unavailable) as caught:
        write(database, insert_in(seconds=9))
    assert type(caught.value) is Unavailable  # statement_timeout
    assert value(admin, "SELECT count(*) FROM users") == 0
    assert backend_pids(database) == pids


def test_silent_transaction_gives_its_locks_back(database: Database, admin: cursor) -> None:
    with pytest.raises((TransientFailure, OutcomeUnknown)), database.transaction() as silent:
        silent.execute("LOCK TABLE idempotency_keys")
        admin.execute("SET statement_timeout = '5s'")
        admin.execute("BEGIN; LOCK TABLE idempotency_keys")  # waits for the other, not for ever
    assert database.pool.lent == 0
    assert len(backend_pids(database)) == SIZE


def test_full_pool_does_not_open_the_breaker_of_a_server_that_is_well(database_url: str) -> None:
    """With REQUEST_TIMEOUT < DB_POOL_TIMEOUT, the wait for a slot leaves no time for the answer."""
    database = Database(database_url, size=1, checkout_timeout=5)

    def sleep_within(seconds: float) -> None:
        with pytest.raises(DeadlineExceeded), deadline.within(seconds):
            read(database, "SELECT pg_sleep(1)")

    for _ in range(6):
        with ThreadPoolExecutor(1) as threads:
            with database.read():
                late = threads.submit(sleep_within, 1.5)
                eventually(lambda: database.pool.waiting == 1)
                time.sleep(1)
            late.result(5)
        assert database.breaker.state is State.CLOSED
    for _ in range(5):
        sleep_within(0.5)
    assert database.breaker.state is not State.CLOSED
    database.close()


def test_exhausted_pool_refuses_requests_and_health_answers(serving: Serve) -> None:
    client = serving(db_pool_timeout=0.5)
    database = services_of(client.application).database
    with ExitStack() as every_connection:
        for _ in range(database.pool.size):
            every_connection.enter_context(database.read())
        refused = client.get(USER)
        problem_of(refused, 503)
        assert refused.headers["Retry-After"] == "1"
        health = client.get("/health")
        assert health.status_code == 200
        assert json_of(health)["pool"] == {"size": 10, "in_use": 10, "waiting": 0}
        assert client.get("/health/ready").status_code == 200
    assert client.get(USER).status_code == 404
