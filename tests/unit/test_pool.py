"""The pool, on connections that fail when a test says so."""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, Self

import psycopg2
import pytest
from psycopg2.extensions import (
    TRANSACTION_STATUS_IDLE,
    TRANSACTION_STATUS_INTRANS,
    TRANSACTION_STATUS_UNKNOWN,
    parse_dsn,
)
from pytest_mock import MockerFixture

from user_service.database.connection import with_session_defaults
from user_service.database.fair_semaphore import Slots
from user_service.database.pool import OPEN_SECONDS, Database, PoolStats
from user_service.errors import (
    CircuitOpen,
    ConnectionLost,
    DeadlineExceeded,
    NotPrepared,
    OutcomeUnknown,
    PoolTimeout,
    TransientFailure,
    Unavailable,
    UserNotFound,
)
from user_service.resilience import deadline
from user_service.resilience.breaker import State

LONG = 30.0  # seconds: nobody who does as they should waits for so long


class FakeConnection:
    """Knows BEGIN, COMMIT and ROLLBACK; fails a statement that is in ``failures``."""

    def __init__(self) -> None:
        self.closed = 0
        self.autocommit = False
        self.info = SimpleNamespace(transaction_status=TRANSACTION_STATUS_IDLE)
        self.sent: list[str] = []
        self.statements: list[str] = []
        self.failures: dict[str, BaseException] = {}
        self.answers: dict[str, str] = {}
        self.loses: set[str] = set()

    @property
    def cursor_factory(self) -> type["FakeCursor"]:
        return FakeCursor

    def cursor(self, cursor_factory: type["FakeCursor"] | None = None) -> "FakeCursor":
        return (cursor_factory or self.cursor_factory)(self)

    def run(self, statement: str) -> str:
        if self.closed:
            raise psycopg2.InterfaceError("connection already closed")
        self.statements.append(statement)
        if statement in self.loses:
            self.close()
        if statement in self.failures:
            raise self.failures[statement]
        if statement == "BEGIN":
            self.info.transaction_status = TRANSACTION_STATUS_INTRANS
        elif statement in {"COMMIT", "ROLLBACK"}:
            self.info.transaction_status = TRANSACTION_STATUS_IDLE
        return self.answers.get(statement, statement)

    def poll(self) -> None:
        if "poll" in self.failures:
            raise self.failures["poll"]

    def rollback(self) -> None:
        raise AssertionError("a connection in a transaction is not to be put back")

    def close(self) -> None:
        self.closed = 1
        self.info.transaction_status = TRANSACTION_STATUS_UNKNOWN


class FakeCursor:
    def __init__(self, connection: FakeConnection) -> None:
        self.connection = connection
        self.statusmessage: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        pass

    def execute(self, query: str, _vars: object = None) -> None:
        self.connection.sent.append(query)
        for statement in query.split("; "):
            self.statusmessage = self.connection.run(statement)


class Server:
    """Stands in for ``psycopg2.connect``: hands out connections and remembers them."""

    def __init__(self) -> None:
        self.connections: list[FakeConnection] = []
        self.on_connect: Callable[[], None] = lambda: None
        self.faults: dict[str, BaseException] = {}  # statements at which it is lost

    def connect(self, _dsn: str) -> FakeConnection:
        self.on_connect()
        self.connections.append(FakeConnection())
        self.connections[-1].failures |= self.faults
        self.connections[-1].loses |= self.faults.keys()
        return self.connections[-1]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server()
    monkeypatch.setattr("psycopg2.connect", server.connect)
    return server


@pytest.fixture(autouse=True)
def no_deadline() -> Iterator[None]:
    yield
    deadline.clear()


@pytest.fixture
def database(server: Server) -> Database:
    """A database with a single slot: a lost one is noticed by the next checkout."""
    return Database("dbname=fake", size=1, checkout_timeout=0.01)


@pytest.fixture
def connection(server: Server, database: Database) -> FakeConnection:
    """The one connection of ``database``, idle."""
    database.open()
    return server.connections[0]


def error_with(sqlstate: str) -> psycopg2.Error:
    class Failure(psycopg2.OperationalError):
        pgcode = sqlstate

    return Failure("the server said no")


def raising(error: BaseException) -> Callable[[], None]:
    def call() -> None:
        raise error

    return call


def read(database: Database, statement: str = "SELECT 1") -> None:
    with database.read() as cursor:
        cursor.execute(statement)


def write(database: Database, statement: str = "INSERT") -> None:
    with database.transaction() as cursor:
        cursor.execute(statement)


class TestCheckout:
    def test_uses_one_connection_again(self, server: Server, database: Database) -> None:
        read(database)
        read(database)
        assert len(server.connections) == 1
        assert database.stats() == PoolStats(size=1, in_use=0, waiting=0)

    def test_connections_are_in_autocommit_mode(self, connection: FakeConnection) -> None:
        assert connection.autocommit

    def test_counts_what_is_in_use(self, database: Database) -> None:
        with database.read():
            assert database.stats().in_use == 1

    def test_times_out_when_no_connection_comes_free(self, database: Database) -> None:
        with database.read(), pytest.raises(PoolTimeout, match="all 1 are in use"):
            read(database)
        assert database.stats() == PoolStats(size=1, in_use=0, waiting=0)

    def test_times_out_at_the_deadline_if_that_is_sooner(self, server: Server) -> None:
        database = Database("dbname=fake", size=1, checkout_timeout=LONG)
        started = time.monotonic()
        with database.read(), deadline.within(0.01), pytest.raises(PoolTimeout):
            read(database)
        assert time.monotonic() - started < LONG / 2
        assert len(server.connections) == 1

    def test_waits_for_a_connection_that_comes_free(self, server: Server) -> None:
        database = Database("dbname=fake", size=1, checkout_timeout=LONG)
        waits = threading.Event()
        database._slots = _Announced(1, waits)
        with ThreadPoolExecutor(1) as threads:
            with database.read():
                late = threads.submit(read, database)
                assert waits.wait(LONG)
            late.result(LONG)
        assert len(server.connections) == 1

    def test_connects_without_holding_back_the_others(self, server: Server) -> None:
        database = Database("dbname=fake", size=2, checkout_timeout=LONG)
        both_connect = threading.Barrier(2, timeout=LONG)

        def slow() -> None:
            both_connect.wait()

        server.on_connect = slow
        with ThreadPoolExecutor(2) as threads:
            for each in [threads.submit(read, database) for _ in range(2)]:
                each.result(LONG)
        assert len(server.connections) == 2

    def test_lends_an_idle_connection_while_another_is_being_opened(self, server: Server) -> None:
        database = Database("dbname=fake", size=2, checkout_timeout=LONG)
        connects, go_on = threading.Event(), threading.Event()

        def slow() -> None:
            connects.set()
            assert go_on.wait(LONG)

        with ThreadPoolExecutor(1) as threads:
            with database.read():
                server.on_connect = slow
                slowly = threads.submit(read, database)
                assert connects.wait(LONG)
            read(database)
            assert not slowly.done()
            go_on.set()
            slowly.result(LONG)
        assert [len(each.statements) for each in server.connections] == [1, 1]

    @pytest.mark.parametrize(
        ("failure", "raised"),
        [
            (psycopg2.OperationalError("refused"), TransientFailure),
            (DeadlineExceeded("too slow"), TransientFailure),
            (KeyboardInterrupt(), KeyboardInterrupt),
        ],
    )
    def test_slot_comes_back_when_connecting_fails(
        self, server: Server, database: Database, failure: BaseException, raised: type[Exception]
    ) -> None:
        server.on_connect = raising(failure)
        with pytest.raises(raised):
            read(database)
        server.on_connect = lambda: None
        read(database)
        assert database.stats().in_use == 0

    def test_replaces_an_idle_connection_that_the_server_has_closed(
        self, server: Server, database: Database, connection: FakeConnection
    ) -> None:
        connection.failures["poll"] = error_with("57P01")
        read(database)
        assert connection.closed
        assert connection.statements == []
        assert len(server.connections) == 2
        assert database.stats().in_use == 0


class TestRead:
    def test_sends_the_statement_alone(
        self, database: Database, connection: FakeConnection
    ) -> None:
        read(database)
        assert connection.statements == ["SELECT 1"]

    def test_lost_connection_is_transient_and_replaced(
        self, server: Server, database: Database, connection: FakeConnection
    ) -> None:
        connection.loses.add("SELECT 1")
        connection.failures["SELECT 1"] = psycopg2.OperationalError("server closed")
        with pytest.raises(TransientFailure):
            read(database)
        read(database)
        assert len(server.connections) == 2
        assert database.stats().in_use == 0

    def test_connection_to_a_read_only_server_is_not_kept(
        self, server: Server, database: Database, connection: FakeConnection
    ) -> None:
        connection.failures["INSERT"] = error_with("25006")
        with pytest.raises(TransientFailure):
            read(database, "INSERT")
        assert connection.closed
        read(database)
        assert len(server.connections) == 2

    def test_connection_survives_a_cancelled_statement(
        self, server: Server, database: Database, connection: FakeConnection
    ) -> None:
        connection.failures["SELECT 1"] = error_with("57014")
        with pytest.raises(Unavailable) as raised:
            read(database)
        assert not isinstance(raised.value, TransientFailure)
        assert not connection.closed
        read(database, "SELECT 2")
        assert len(server.connections) == 1

    def test_fault_of_the_program_is_raised_as_it_is(
        self, database: Database, connection: FakeConnection
    ) -> None:
        connection.failures["SELECT 1"] = error_with("42601")
        with pytest.raises(psycopg2.OperationalError, match="the server said no"):
            read(database)

    def test_connection_left_in_a_transaction_is_not_put_back(
        self, server: Server, database: Database, connection: FakeConnection
    ) -> None:
        read(database, "BEGIN")
        assert connection.closed
        read(database)
        assert len(server.connections) == 2
        assert database.stats().in_use == 0


class TestTransaction:
    def test_is_begun_and_committed(self, database: Database, connection: FakeConnection) -> None:
        write(database)
        assert connection.statements == ["BEGIN", "INSERT", "COMMIT"]

    def test_begins_in_the_round_trip_of_its_first_statement(
        self, database: Database, connection: FakeConnection
    ) -> None:
        with database.transaction() as cursor:
            cursor.execute("INSERT")
            cursor.execute("UPDATE")
        assert connection.sent == ["BEGIN; INSERT", "UPDATE", "COMMIT"]

    @pytest.mark.parametrize("error", [UserNotFound, KeyboardInterrupt])
    def test_is_rolled_back_when_its_block_raises(
        self, database: Database, connection: FakeConnection, error: type[BaseException]
    ) -> None:
        with pytest.raises(error), database.transaction():
            raise error
        assert connection.statements == ["BEGIN", "ROLLBACK"]
        assert not connection.closed

    @pytest.mark.parametrize(
        "failure", [psycopg2.OperationalError("lost"), DeadlineExceeded("too slow")]
    )
    def test_rollback_that_raises_hides_nothing_and_loses_no_slot(
        self,
        server: Server,
        database: Database,
        connection: FakeConnection,
        failure: Exception,
    ) -> None:
        connection.failures["ROLLBACK"] = failure
        with pytest.raises(UserNotFound), database.transaction():
            raise UserNotFound
        assert connection.closed  # it is still in its transaction, so nobody gets it
        write(database)
        assert len(server.connections) == 2
        assert database.stats().in_use == 0

    def test_of_a_lost_connection_is_not_rolled_back(
        self, database: Database, connection: FakeConnection
    ) -> None:
        connection.loses.add("INSERT")
        connection.failures["INSERT"] = psycopg2.OperationalError("server closed")
        with pytest.raises(TransientFailure):
            write(database)
        assert connection.statements == ["BEGIN", "INSERT"]

    @pytest.mark.parametrize(
        "failure",
        [
            psycopg2.OperationalError("server closed"),
            error_with("57P01"),
            DeadlineExceeded("too slow"),
        ],
    )
    def test_lost_during_commit_has_an_unknown_outcome(
        self, server: Server, database: Database, connection: FakeConnection, failure: Exception
    ) -> None:
        connection.loses.add("COMMIT")
        connection.failures["COMMIT"] = failure
        with pytest.raises(OutcomeUnknown):
            write(database)
        write(database)
        assert len(server.connections) == 2
        assert database.stats().in_use == 0

    def test_refused_at_commit_by_a_living_server_is_classified_as_usual(
        self, database: Database, connection: FakeConnection
    ) -> None:
        connection.failures["COMMIT"] = error_with("40001")
        with pytest.raises(TransientFailure):
            write(database)

    def test_commit_answered_with_rollback_is_no_success(
        self, database: Database, connection: FakeConnection
    ) -> None:
        connection.answers["COMMIT"] = "ROLLBACK"
        with pytest.raises(TransientFailure, match="rolled back instead of committing"):
            write(database)
        assert database.stats().in_use == 0

    def test_lost_before_it_began_is_transient(
        self, database: Database, connection: FakeConnection
    ) -> None:
        connection.loses.add("BEGIN")
        connection.failures["BEGIN"] = psycopg2.OperationalError("server closed")
        with pytest.raises(TransientFailure):
            write(database)


class TestOpenAndClose:
    def test_open_fills_the_pool(self, server: Server) -> None:
        database = Database("dbname=fake", size=3)
        database.open()
        assert len(server.connections) == 3
        assert database.stats() == PoolStats(size=3, in_use=0, waiting=0)

    def test_nothing_connects_before_it_is_needed(self, server: Server) -> None:
        Database("dbname=fake").stats()
        assert server.connections == []

    def test_open_that_fails_half_way_leaves_a_pool_that_works(self, server: Server) -> None:
        database = Database("dbname=fake", size=3, checkout_timeout=0.01)

        def second_fails() -> None:
            if len(server.connections) == 1:
                raise psycopg2.OperationalError("refused")

        server.on_connect = second_fails
        with pytest.raises(TransientFailure):
            database.open()
        assert database.stats().in_use == 0
        server.on_connect = lambda: None
        database.open()
        assert len(server.connections) == 3

    def test_close_closes_what_is_idle(
        self, database: Database, connection: FakeConnection
    ) -> None:
        database.close()
        assert connection.closed

    def test_close_leaves_alone_what_is_lent_until_it_comes_back(self, server: Server) -> None:
        database = Database("dbname=fake", size=2)
        database.open()
        with database.transaction() as cursor:
            database.close()
            cursor.execute("INSERT")
            assert database.stats().in_use == 1
            assert sorted(each.closed for each in server.connections) == [0, 1]
        statements = [each.statements for each in server.connections if each.statements]
        assert statements == [["BEGIN", "INSERT", "COMMIT"]]
        assert all(each.closed for each in server.connections)
        assert database.stats().in_use == 0

    def test_connection_that_breaks_after_close_is_given_up_too(
        self, database: Database, connection: FakeConnection
    ) -> None:
        connection.loses.add("SELECT 1")
        connection.failures["SELECT 1"] = psycopg2.OperationalError("server closed")
        with pytest.raises(ConnectionLost), database.read() as cursor:
            database.close()
            cursor.execute("SELECT 1")
        assert database.stats() == PoolStats(size=1, in_use=0, waiting=0)

    def test_nothing_is_lent_after_close(self, server: Server, database: Database) -> None:
        database.open()
        database.close()
        with pytest.raises(Unavailable, match="the connection pool is closed"):
            read(database)
        assert len(server.connections) == 1
        assert database.stats().in_use == 0

    def test_connection_lent_while_the_pool_is_closed_is_closed_on_return(
        self, database: Database, connection: FakeConnection
    ) -> None:
        with database.read():
            database.close()
        assert connection.closed

    def test_connection_opened_while_the_pool_is_closed_is_closed_on_return(
        self, server: Server, database: Database
    ) -> None:
        server.on_connect = database.close
        read(database)
        assert server.connections[0].closed

    def test_close_twice_is_harmless(self, database: Database, connection: FakeConnection) -> None:
        database.close()
        database.close()
        assert connection.closed


class TestPrepare:
    def test_runs_once_before_the_first_connection(self, server: Server) -> None:
        seen: list[int] = []
        database = Database("dbname=fake", prepare=lambda: seen.append(len(server.connections)))
        read(database)
        read(database)
        assert seen == [0]

    def test_is_tried_again_by_the_next_checkout(self, mocker: MockerFixture) -> None:
        refused = psycopg2.OperationalError("refused")
        prepare = mocker.Mock(side_effect=[refused, None])
        database = Database("dbname=fake", prepare=prepare)
        with pytest.raises(TransientFailure):
            database.ensure_prepared()
        database.ensure_prepared()
        database.ensure_prepared()
        assert prepare.call_count == 2

    def test_takes_no_slot_when_it_fails(self, server: Server) -> None:
        failing: list[Exception] = [psycopg2.OperationalError("refused")] * 4

        def prepare() -> None:
            if failing:
                raise failing.pop()

        database = Database("dbname=fake", size=1, checkout_timeout=0.01, prepare=prepare)
        for _ in range(4):
            with pytest.raises(TransientFailure):
                read(database)
        read(database)
        assert len(server.connections) == 1

    def test_is_waited_for_only_so_long_and_goes_on(self) -> None:
        go_on, runs = threading.Event(), []

        def prepare() -> None:
            runs.append(deadline.remaining())
            assert go_on.wait(LONG)

        database = Database("dbname=fake", checkout_timeout=0.01, prepare=prepare)
        for _ in range(3):
            with (
                deadline.within(LONG),
                pytest.raises(Unavailable, match="still being prepared"),
            ):
                database.ensure_prepared()
        database._checkout_timeout = LONG
        go_on.set()
        database.ensure_prepared()
        assert runs == [math.inf]  # once, and without the deadline of the one who waited

    def test_is_not_waited_for_beyond_the_deadline(self) -> None:
        go_on = threading.Event()
        database = Database("dbname=fake", checkout_timeout=LONG, prepare=lambda: go_on.wait(LONG))
        started = time.monotonic()
        with deadline.within(0.01), pytest.raises(Unavailable):
            database.ensure_prepared()
        assert time.monotonic() - started < LONG / 2
        go_on.set()

    @pytest.mark.usefixtures("server")
    def test_runs_once_for_all_who_need_it_at_once(self) -> None:
        go_on, runs = threading.Event(), []

        def prepare() -> None:
            runs.append(1)
            assert go_on.wait(LONG)

        number = 8
        database = Database("dbname=fake", size=number, checkout_timeout=LONG, prepare=prepare)
        with ThreadPoolExecutor(number) as threads:
            together = threading.Barrier(number + 1, timeout=LONG)

            def ask() -> None:
                together.wait()
                read(database)

            asking = [threads.submit(ask) for _ in range(number)]
            together.wait()
            go_on.set()
            for each in asking:
                each.result(LONG)
        assert len(runs) == 1

    @pytest.mark.parametrize(
        ("failure", "raised"),
        [
            (psycopg2.OperationalError("refused"), ConnectionLost),
            (psycopg2.InterfaceError("closed"), ConnectionLost),
            (ConnectionLost("refused"), ConnectionLost),
            (psycopg2.ProgrammingError("no such column"), NotPrepared),
            (OSError("no such file"), NotPrepared),
        ],
        ids=repr,
    )
    def test_failure_is_that_of_who_needs_it(
        self, failure: Exception, raised: type[Exception]
    ) -> None:
        database = Database("dbname=fake", prepare=raising(failure))
        for _ in range(2):
            with pytest.raises(raised, match=str(failure) if raised is type(failure) else None):
                database.ensure_prepared()


class TestBreaker:
    @pytest.fixture(autouse=True)
    def clock(self, database: Database) -> SimpleNamespace:
        """The breaker's clock, which stands still until a test moves it on."""
        clock = SimpleNamespace(now=0.0)
        database.breaker._clock = lambda: clock.now
        return clock

    def fail(self, database: Database, times: int) -> None:
        for _ in range(times):
            with pytest.raises(ConnectionLost):
                read(database)

    def test_opens_when_the_server_cannot_be_reached(
        self, server: Server, database: Database
    ) -> None:
        attempts = []

        def refuse() -> None:
            attempts.append(1)
            raise psycopg2.OperationalError("refused")

        server.on_connect = refuse
        self.fail(database, 5)
        for _ in range(3):
            with pytest.raises(CircuitOpen, match="the database did not answer lately"):
                read(database)
        assert len(attempts) == 5

    @pytest.mark.parametrize("use", [read, write])
    def test_lets_one_try_after_a_pause_and_closes_when_that_succeeds(
        self,
        server: Server,
        database: Database,
        clock: SimpleNamespace,
        use: Callable[[Database], None],
    ) -> None:
        server.on_connect = raising(psycopg2.OperationalError("refused"))
        self.fail(database, 5)
        clock.now += OPEN_SECONDS
        self.fail(database, 1)
        with pytest.raises(CircuitOpen):
            use(database)
        clock.now += OPEN_SECONDS
        server.on_connect = lambda: None
        use(database)
        assert database.breaker.state is State.CLOSED

    @pytest.mark.parametrize(
        ("lost_at", "failure", "raised"),
        [
            ("INSERT", psycopg2.OperationalError("server closed"), ConnectionLost),
            ("INSERT", DeadlineExceeded("too slow"), DeadlineExceeded),
            ("COMMIT", psycopg2.OperationalError("server closed"), OutcomeUnknown),
        ],
    )
    def test_counts_every_kind_of_silence(
        self,
        server: Server,
        database: Database,
        lost_at: str,
        failure: Exception,
        raised: type[Exception],
    ) -> None:
        server.faults = {lost_at: failure}
        for _ in range(5):
            assert database.breaker.state is State.CLOSED
            with pytest.raises(raised):
                write(database)
        assert database.breaker.state is State.OPEN

    @pytest.mark.parametrize("sqlstate", ["57014", "40001", "40P01", "53100", "42601", "23505"])
    def test_error_that_the_server_answers_does_not_open_it(
        self, database: Database, connection: FakeConnection, sqlstate: str
    ) -> None:
        connection.failures["SELECT 1"] = error_with(sqlstate)
        for _ in range(9):
            with pytest.raises((Unavailable, psycopg2.Error)):
                read(database)
        assert database.breaker.state is State.CLOSED

    def test_exhausted_pool_does_not_open_it(self, database: Database) -> None:
        with database.read():
            for _ in range(9):
                with pytest.raises(PoolTimeout):
                    read(database)
        assert database.breaker.state is State.CLOSED

    @pytest.mark.usefixtures("server")
    def test_nobody_waits_for_a_slot_while_it_is_open(self) -> None:
        database = Database("dbname=fake", size=1, checkout_timeout=LONG)
        waits = threading.Event()
        database._slots = _Announced(1, waits)
        with database.read():
            for _ in range(5):
                with pytest.raises(ConnectionLost), database.breaker.calling():
                    raise ConnectionLost
            with pytest.raises(CircuitOpen):
                read(database)
        assert not waits.is_set()

    @pytest.mark.usefixtures("server")
    def test_slot_comes_back_from_who_waited_for_it_while_it_opened(self) -> None:
        database = Database("dbname=fake", size=1, checkout_timeout=LONG)
        waits = threading.Event()
        database._slots = _Announced(1, waits)
        with ThreadPoolExecutor(1) as threads:
            with database.read():
                late = threads.submit(read, database)
                assert waits.wait(LONG)
                for _ in range(5):
                    with pytest.raises(ConnectionLost), database.breaker.calling():
                        raise ConnectionLost
            with pytest.raises(CircuitOpen):
                late.result(LONG)
        assert database._slots.free == 1


class TestLog:
    @pytest.fixture(autouse=True)
    def level(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "user_service")

    def test_says_that_the_pool_is_opened_and_closed_once(
        self, database: Database, caplog: pytest.LogCaptureFixture
    ) -> None:
        database.open()
        database.close()
        database.close()
        assert caplog.messages == [
            "connection pool opened with 1 connections",
            "connection pool closed",
        ]

    def test_says_once_that_the_pool_is_full_until_it_is_not(
        self, database: Database, caplog: pytest.LogCaptureFixture
    ) -> None:
        full = "connection pool is full: all 1 connections are in use"
        for said in (1, 2):
            with database.read():
                for _ in range(3):
                    with pytest.raises(PoolTimeout):
                        read(database)
            assert caplog.messages == [full] * said

    def test_says_that_a_connection_is_replaced(
        self, database: Database, connection: FakeConnection, caplog: pytest.LogCaptureFixture
    ) -> None:
        connection.failures["poll"] = error_with("57P01")
        read(database)
        assert "replaces a connection" in caplog.messages[-1]


class TestSessionDefaults:
    def test_are_added_to_a_dsn_that_says_nothing(self) -> None:
        dsn = parse_dsn(with_session_defaults("postgresql://u@h/db", 2.5))
        assert dsn["options"] == (
            "-c statement_timeout=2500 -c idle_in_transaction_session_timeout=2500 -c timezone=UTC"
        )
        assert (dsn["application_name"], dsn["keepalives"]) == ("user-service", "1")
        assert (dsn["user"], dsn["host"], dsn["dbname"]) == ("u", "h", "db")

    def test_leave_what_the_dsn_says(self) -> None:
        url = "postgresql://u@h/db?application_name=mine&keepalives_idle=60&sslmode=require"
        dsn = parse_dsn(with_session_defaults(url, 3))
        assert (dsn["application_name"], dsn["keepalives_idle"]) == ("mine", "60")
        assert (dsn["sslmode"], dsn["tcp_user_timeout"]) == ("require", "10000")

    @pytest.mark.parametrize(
        ("seconds", "setting"),
        [(0.0001, "1"), (0.0004, "1"), (0.001, "1"), (0.0016, "2"), (3, "3000"), (600, "600000")],
    )
    def test_statement_timeout_is_never_0_which_would_mean_none(
        self, seconds: float, setting: str
    ) -> None:
        options = parse_dsn(with_session_defaults("host=h", seconds))["options"]
        names = ("statement_timeout", "idle_in_transaction_session_timeout")
        ours = " ".join(f"-c {name}={setting}" for name in names)
        assert options == f"{ours} -c timezone=UTC"

    @pytest.mark.parametrize(
        "dsn",
        [
            "host=h options='-c work_mem=8MB -c statement_timeout=7s'",
            "postgresql://h/d?options=-c%20work_mem%3D8MB%20-c%20statement_timeout%3D7s",
        ],
    )
    def test_options_of_the_dsn_come_after_ours_and_so_win(self, dsn: str) -> None:
        options = parse_dsn(with_session_defaults(dsn, 3))["options"]
        assert options == (
            "-c statement_timeout=3000 -c idle_in_transaction_session_timeout=3000"
            " -c timezone=UTC -c work_mem=8MB -c statement_timeout=7s"
        )

    def test_of_a_session_are_left_out_where_it_is_shared(self) -> None:
        dsn = parse_dsn(with_session_defaults("host=h", None))
        assert "options" not in dsn
        assert dsn["keepalives"] == "1"

    @pytest.mark.parametrize("password", ["it's", "back\\slash", "two words", "ü"])
    def test_keep_a_password_of_any_characters(self, password: str) -> None:
        dsn: Any = psycopg2.extensions.make_dsn("host=h", password=password)
        assert parse_dsn(with_session_defaults(dsn, 3))["password"] == password


class _Announced(Slots):
    """Slots that set ``waits`` when somebody begins to wait for one."""

    def __init__(self, number: int, waits: threading.Event) -> None:
        super().__init__(number)
        self._waits = waits

    def wait(self, seconds: float) -> bool:
        self._waits.set()
        return super().wait(seconds)
