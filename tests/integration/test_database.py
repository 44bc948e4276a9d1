"""The pool on a real PostgreSQL: lost connections, time-outs, transactions."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager

import psycopg2
import pytest
from flask.testing import FlaskClient
from psycopg2.extensions import cursor, make_dsn

from app import create_app
from tests.responses import json_of, problem_of
from tests.waiting import eventually
from user_service.database.pool import Database
from user_service.errors import (
    DeadlineExceeded,
    OutcomeUnknown,
    TransientFailure,
    Unavailable,
)
from user_service.resilience import deadline
from user_service.resilience.breaker import State
from user_service.settings import Settings
from user_service.web.services import Services, services_of

SIZE = 3


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = Database(database_url, size=SIZE, checkout_timeout=0.2, statement_timeout=0.5)
    yield opened
    opened.close()


@pytest.fixture
def admin(database_url: str) -> Iterator[cursor]:
    """A cursor of the tests' own, beside the pool."""
    with closing(psycopg2.connect(database_url)) as connection:
        connection.autocommit = True
        yield connection.cursor()


def backend_pids(database: Database) -> set[int]:
    """Return the server's process ids of all connections of the pool."""
    pids: set[int] = set()

    def look(barrier: threading.Barrier) -> None:
        with database.read() as cursor:
            barrier.wait(10)  # so that each thread holds a connection of its own
            cursor.execute("SELECT pg_backend_pid()")
            pids.update(*cursor.fetchall())

    with ThreadPoolExecutor(SIZE) as threads:
        barrier = threading.Barrier(SIZE)
        list(threads.map(look, [barrier] * SIZE))
    return pids


@contextmanager
def every_connection_held(database: Database) -> Iterator[ExitStack]:
    """Hold them for a block, or until what it is given is closed."""
    with ExitStack() as held:
        for _ in range(database.stats().size):
            held.enter_context(database.read())
        yield held


def terminate(admin: cursor, pids: set[int]) -> None:
    admin.execute("SELECT pg_terminate_backend(pid, 5000) FROM unnest(%s) AS pid", (list(pids),))


def value(cursor: cursor, sql: str) -> object:
    cursor.execute(sql)
    row = cursor.fetchone()
    assert row is not None
    return row[0]


def test_connections_are_reused(database: Database) -> None:
    database.open()
    pids = backend_pids(database)
    assert len(pids) == SIZE
    assert backend_pids(database) == pids
    assert database.stats().in_use == 0


def test_session_is_set_up_as_asked(database: Database) -> None:
    with database.read() as cursor:
        assert value(cursor, "SHOW statement_timeout") == "500ms"
        assert value(cursor, "SHOW timezone") == "UTC"


def test_read_has_no_transaction_of_its_own(database: Database) -> None:
    with database.read() as cursor:
        first = value(cursor, "SELECT pg_current_xact_id()::text")
        assert value(cursor, "SELECT pg_current_xact_id()::text") != first


def test_transaction_begins_with_its_first_statement_and_is_committed_as_a_whole(
    database: Database,
) -> None:
    with database.transaction() as cursor:
        first = value(cursor, "SELECT pg_current_xact_id()::text")
        assert b"BEGIN" in (cursor.query or b"")
        assert value(cursor, "SELECT pg_current_xact_id()::text") == first
        assert b"BEGIN" not in (cursor.query or b"")
    with database.read() as cursor:
        cursor.execute("SELECT pg_xact_status(%s::xid8)", (first,))
        assert cursor.fetchone() == ("committed",)


def test_transaction_has_its_isolation_level_whatever_the_roles_default(database: Database) -> None:
    with database.read() as cursor:
        cursor.execute("SET default_transaction_isolation = serializable")
    with database.transaction() as cursor:
        assert value(cursor, "SHOW transaction_isolation") == "read committed"


def test_settings_of_one_statement_end_with_it(database: Database) -> None:
    with database.read() as cursor:
        cursor.ahead_of_next = "SET LOCAL jit = off; SET LOCAL enable_seqscan = off; "
        assert value(cursor, "SHOW enable_seqscan") == "off"
        assert value(cursor, "SHOW enable_seqscan") == "on"


def test_transaction_that_raises_leaves_nothing_and_a_usable_connection(
    database: Database,
) -> None:
    pids = backend_pids(database)
    with pytest.raises(ZeroDivisionError), database.transaction() as cursor:
        cursor.execute(insert_in(seconds=0))
        _ = 1 / 0
    with database.read() as cursor:
        assert value(cursor, "SELECT count(*) FROM users") == 0
    assert backend_pids(database) == pids


def test_error_in_the_first_statement_leaves_no_open_transaction(
    database: Database, admin: cursor
) -> None:
    pids = backend_pids(database)
    with pytest.raises(psycopg2.errors.DivisionByZero), database.transaction() as cursor:
        cursor.execute("SELECT 1 / 0")
    with pytest.raises(psycopg2.errors.SyntaxError), database.transaction() as cursor:
        cursor.execute("SELEKT")  # refused before BEGIN was even done
    admin.execute("SELECT DISTINCT state FROM pg_stat_activity WHERE pid = ANY(%s)", [list(pids)])
    assert admin.fetchall() == [("idle",)]
    assert backend_pids(database) == pids


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


@pytest.mark.parametrize("use", [write, transact])
def test_write_is_committed_at_its_end(database: Database, admin: cursor, use: Use) -> None:
    use(database, insert_in(seconds=0))
    assert value(admin, "SELECT count(*) FROM users") == 1


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
    assert database.stats().in_use == 0
    assert len(backend_pids(database)) == SIZE


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
    assert database.stats().in_use == 0


def test_write_that_the_server_refuses_has_committed_nothing(
    database: Database, admin: cursor
) -> None:
    pids = backend_pids(database)
    with pytest.raises(Unavailable) as caught:
        write(database, insert_in(seconds=9))
    assert type(caught.value) is Unavailable  # statement_timeout
    assert value(admin, "SELECT count(*) FROM users") == 0
    assert backend_pids(database) == pids


def test_idle_connections_that_the_server_closed_are_replaced_unnoticed(
    database: Database, admin: cursor
) -> None:
    before = backend_pids(database)
    terminate(admin, before)
    after = backend_pids(database)
    assert len(after) == SIZE
    assert not before & after


def test_transaction_whose_client_is_silent_gives_its_locks_back(
    database: Database, admin: cursor
) -> None:
    admin.execute("CREATE TABLE lockable AS SELECT 1 AS id")
    try:
        with pytest.raises((TransientFailure, OutcomeUnknown)), database.transaction() as silent:
            silent.execute("UPDATE lockable SET id = 2")
            admin.execute("SET statement_timeout = '5s'")
            admin.execute("UPDATE lockable SET id = 3")  # waits for the other, not for ever
        admin.execute("SELECT id FROM lockable")
        assert admin.fetchall() == [(3,)]
    finally:
        admin.execute("DROP TABLE lockable")
    assert database.stats().in_use == 0
    assert len(backend_pids(database)) == SIZE


def test_full_pool_does_not_open_the_breaker_of_a_server_that_is_well(database_url: str) -> None:
    """With REQUEST_TIMEOUT < DB_POOL_TIMEOUT, the wait for a slot leaves no time for the answer."""
    database = Database(database_url, size=1, checkout_timeout=5)
    for _ in range(6):
        with ThreadPoolExecutor(1) as threads, ExitStack() as holding:
            holding.enter_context(database.read())
            late = threads.submit(sleep_within, database, 1.5)
            eventually(lambda: database.stats().waiting == 1)
            time.sleep(1)
            holding.close()
            with pytest.raises(DeadlineExceeded):
                late.result(5)
        assert database.breaker.state is State.CLOSED
    for _ in range(5):
        with pytest.raises(DeadlineExceeded):
            sleep_within(database, 0.5)
    assert database.breaker.state is not State.CLOSED
    database.close()


def sleep_within(database: Database, seconds: float) -> None:
    """Ask for something that takes a second."""
    with deadline.within(seconds), database.read() as cursor:
        cursor.execute("SELECT pg_sleep(1)")


def test_health_answers_while_the_pool_is_exhausted(
    client: FlaskClient, services: Services
) -> None:
    size = services.database.stats().size
    with every_connection_held(services.database):
        health = client.get("/health")
        assert health.status_code == 200
        assert json_of(health)["pool"] == {"size": size, "in_use": size, "waiting": 0}
        assert client.get("/health/ready").status_code == 200


def test_health_survives_the_loss_of_its_own_connection(client: FlaskClient, admin: cursor) -> None:
    assert client.get("/health").status_code == 200
    admin.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE application_name = 'user-service'"
    )
    assert client.get("/health").status_code == 200


def test_readiness_leaves_a_server_that_became_read_only(database_url: str) -> None:
    """``tests/faults/test_failover.py`` shows that the new primary is found."""
    database = Database(make_dsn(database_url, target_session_attrs="read-write"), size=1)
    with database.read() as cursor:
        pid = value(cursor, "SELECT pg_backend_pid()")
        # Roles' settings hold for new sessions; this session is turned by hand.
        cursor.execute("SET default_transaction_read_only = on")
    assert database.is_ready()
    with database.read() as cursor:
        assert value(cursor, "SELECT pg_backend_pid()") != pid
    database.close()


def test_exhausted_pool_is_a_problem_that_says_when_to_try_again(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"db_pool_timeout": 0.5}))
    client = app.test_client()
    with closing(services_of(app)) as services:
        with every_connection_held(services.database):
            refused = client.get("/api/v1/users/1")
            problem_of(refused, 503)
            assert refused.headers["Retry-After"] == "1"
        assert client.get("/api/v1/users/1").status_code == 404
