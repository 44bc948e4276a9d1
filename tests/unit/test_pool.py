"""The pool, on connections that fail when a test says so."""

import logging
import threading
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
)

from tests.waiting import eventually
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
from user_service.resilience.breaker import CircuitBreaker, State

LONG = 30.0  # seconds
BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"


class FakeConnection:
    """Knows BEGIN, COMMIT and ROLLBACK. A statement in ``failures`` fails, one in ``loses`` also
    loses the connection.
    """

    def __init__(self) -> None:
        self.closed = 0
        self.autocommit = False
        self.cursor_factory = FakeCursor
        self.info = SimpleNamespace(
            transaction_status=TRANSACTION_STATUS_IDLE, parameter_status={}.get
        )
        self.sent: list[str] = []
        self.failures: dict[str, BaseException] = {}
        self.answers: dict[str, str] = {}
        self.loses: set[str] = set()

    @property
    def statements(self) -> list[str]:
        return [statement for sent in self.sent for statement in sent.split("; ")]

    def cursor(self) -> "FakeCursor":
        return FakeCursor(self)

    def run(self, statement: str) -> str:
        if statement in self.loses:
            self.close()
        if statement in self.failures:
            raise self.failures[statement]
        if statement == BEGIN:
            self.info.transaction_status = TRANSACTION_STATUS_INTRANS
        elif statement in {"COMMIT", "ROLLBACK"}:
            self.info.transaction_status = TRANSACTION_STATUS_IDLE
        return self.answers.get(statement, statement)

    def fail(self, statement: str, error: BaseException, *, lost: bool = False) -> None:
        self.failures[statement] = error
        if lost:
            self.loses.add(statement)

    def poll(self) -> None:
        if "poll" in self.failures:
            raise self.failures["poll"]

    def rollback(self) -> None:
        raise AssertionError("a connection in a transaction must not be put back")

    def close(self) -> None:
        self.closed = 1
        self.info.transaction_status = TRANSACTION_STATUS_UNKNOWN


class FakeCursor:
    """Sends SQL ahead as ``Cursor`` does, of which the integration tests are."""

    ahead_of_next = ahead_of_each = ""

    def __init__(self, connection: FakeConnection) -> None:
        self.connection = connection
        self.statusmessage: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        pass

    def execute(self, query: str, _vars: object = None) -> None:
        query = self.ahead_of_next + self.ahead_of_each + query
        self.ahead_of_next = ""
        if self.connection.closed:
            raise psycopg2.InterfaceError("connection already closed")
        self.connection.sent.append(query)
        for statement in query.split("; "):
            self.statusmessage = self.connection.run(statement)


class Server:
    """Stands in for ``psycopg2.connect`` and keeps the connections that it made."""

    def __init__(self) -> None:
        self.connections: list[FakeConnection] = []
        self.on_connect: Callable[[], None] = lambda: None
        self.faults: dict[str, BaseException] = {}  # statements that lose their connection

    def connect(
        self, dsn: str, connection_factory: Callable[[str], Any] | None = None, **_options: object
    ) -> Any:
        if connection_factory is not None:
            return connection_factory(dsn)
        self.on_connect()
        connection = FakeConnection()
        for statement, error in self.faults.items():
            connection.fail(statement, error, lost=True)
        self.connections.append(connection)
        return connection

    def refuse(self) -> None:
        def fail() -> None:
            raise psycopg2.OperationalError("refused")

        self.on_connect = fail


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server()
    monkeypatch.setattr("psycopg2.connect", server.connect)
    yield server
    deadline.clear()


@pytest.fixture
def clock() -> SimpleNamespace:
    """The breaker's clock, which stands still until a test moves it on."""
    return SimpleNamespace(now=0.0)


@pytest.fixture
def database(server: Server, clock: SimpleNamespace) -> Database:
    """A database with a single slot, so that the next checkout notices a lost one."""
    breaker = CircuitBreaker(
        "the database",
        failures=(ConnectionLost, DeadlineExceeded, OutcomeUnknown),
        open_seconds=OPEN_SECONDS,
        clock=lambda: clock.now,
    )
    return Database("dbname=fake", size=1, checkout_timeout=0.01, breaker=breaker)


@pytest.fixture
def connection(server: Server, database: Database) -> FakeConnection:
    """The one connection of ``database``, idle."""
    database.open()
    return server.connections[0]


def error_with(sqlstate: str) -> psycopg2.Error:
    class Failure(psycopg2.OperationalError):
        pgcode = sqlstate

    return Failure("the server said no")


CLOSED = psycopg2.OperationalError("server closed the connection")
TOO_SLOW = DeadlineExceeded("too slow")


def read(database: Database, statement: str = "SELECT 1") -> None:
    with database.read() as cursor:
        cursor.execute(statement)


def write(database: Database, statement: str = "INSERT") -> None:
    with database.write(statement, {}):
        pass


def transact(database: Database, statement: str = "INSERT") -> None:
    with database.transaction() as cursor:
        cursor.execute(statement)


USES = pytest.mark.parametrize("use", [read, write, transact])


def open_breaker(database: Database) -> None:
    for _ in range(5):
        with pytest.raises(ConnectionLost), database.breaker.calling():
            raise ConnectionLost


class TestCheckout:
    @pytest.mark.usefixtures("server")
    def test_times_out_at_the_deadline_if_that_is_sooner(self) -> None:
        database = Database("dbname=fake", size=1, checkout_timeout=LONG)
        with database.read(), deadline.within(0.01), pytest.raises(PoolTimeout):
            read(database)

    def test_begins_no_call_when_no_time_is_left(self, server: Server, database: Database) -> None:
        for _ in range(9):
            with deadline.within(0), pytest.raises(DeadlineExceeded):
                read(database)
        assert server.connections == []
        assert database.breaker.state is State.CLOSED

    def test_connections_are_opened_in_parallel(self, server: Server) -> None:
        database = Database("dbname=fake", size=2, checkout_timeout=LONG)
        both_connect = threading.Barrier(2, timeout=LONG)
        server.on_connect = lambda: (both_connect.wait(), None)[1]
        with ThreadPoolExecutor(2) as threads:
            for each in [threads.submit(read, database) for _ in range(2)]:
                each.result(LONG)
        assert len(server.connections) == 2

    def test_idle_connection_is_lent_while_another_is_being_opened(self, server: Server) -> None:
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
        # The one that was opened meanwhile is idle, and lent when both are needed.
        with database.read(), database.read():
            assert database.stats().in_use == 2
        assert len(server.connections) == 2

    @pytest.mark.parametrize(
        ("failure", "raised"),
        [
            (psycopg2.OperationalError("refused"), TransientFailure),
            (TOO_SLOW, TransientFailure),
            (KeyboardInterrupt(), KeyboardInterrupt),
        ],
    )
    @USES
    def test_failing_to_connect_is_transient_and_loses_no_slot(
        self,
        server: Server,
        database: Database,
        failure: BaseException,
        raised: type[Exception],
        use: Callable[[Database], None],
    ) -> None:
        def fail() -> None:
            raise failure

        server.on_connect = fail
        with pytest.raises(raised):
            use(database)
        server.on_connect = lambda: None
        use(database)
        assert database.stats().in_use == 0


class TestRead:
    def test_lost_connection_takes_the_idle_ones_with_it(self, server: Server) -> None:
        database = Database("dbname=fake", size=3)
        with database.read(), database.read():
            read(database)
        assert len(server.connections) == 3
        for each in server.connections:
            each.fail("SELECT 1", CLOSED, lost=True)
        with pytest.raises(ConnectionLost):
            read(database)
        assert all(each.closed for each in server.connections)

    def test_connection_left_in_a_transaction_is_not_kept(
        self, server: Server, database: Database, connection: FakeConnection
    ) -> None:
        read(database, BEGIN)
        assert connection.closed
        read(database)
        assert len(server.connections) == 2


class TestAnswerOfALivingServer:
    """An error that the server answers has committed nothing, in all three ways of use."""

    @USES
    def test_read_only_server_is_transient_and_its_connection_not_kept(
        self,
        server: Server,
        database: Database,
        connection: FakeConnection,
        use: Callable[[Database, str], None],
    ) -> None:
        connection.fail("INSERT", error_with("25006"))
        with pytest.raises(TransientFailure):
            use(database, "INSERT")
        assert connection.closed
        use(database, "INSERT")
        assert len(server.connections) == 2

    @pytest.mark.parametrize(
        ("sqlstate", "raised"),
        [
            ("57014", Unavailable),
            ("53100", Unavailable),
            ("40001", TransientFailure),
            ("42601", psycopg2.OperationalError),
            ("23505", psycopg2.OperationalError),
        ],
    )
    @USES
    def test_is_classified_and_neither_ends_the_connection_nor_opens_the_breaker(  # noqa: PLR0913, PLR0917 -- fixtures
        self,
        server: Server,
        database: Database,
        connection: FakeConnection,
        sqlstate: str,
        raised: type[Exception],
        use: Callable[[Database, str], None],
    ) -> None:
        connection.fail("INSERT", error_with(sqlstate))
        for _ in range(9):
            with pytest.raises(raised) as caught:
                use(database, "INSERT")
            assert type(caught.value) is raised or isinstance(caught.value, psycopg2.Error)
        use(database, "UPDATE")
        assert len(server.connections) == 1


class TestTransaction:
    @pytest.mark.parametrize("error", [UserNotFound, KeyboardInterrupt])
    def test_is_rolled_back_when_its_block_raises(
        self, database: Database, connection: FakeConnection, error: type[BaseException]
    ) -> None:
        with pytest.raises(error), database.transaction() as cursor:
            cursor.execute("INSERT")
            raise error
        assert connection.statements == [BEGIN, "INSERT", "ROLLBACK"]
        assert not connection.closed

    def test_that_has_not_begun_needs_no_end(
        self, database: Database, connection: FakeConnection
    ) -> None:
        with pytest.raises(UserNotFound), database.transaction():
            raise UserNotFound
        assert connection.sent == []
        assert not connection.closed

    @pytest.mark.parametrize("failure", [CLOSED, TOO_SLOW])
    def test_rollback_that_fails_hides_nothing_and_loses_no_slot(
        self, server: Server, database: Database, connection: FakeConnection, failure: Exception
    ) -> None:
        connection.fail("ROLLBACK", failure)
        with pytest.raises(UserNotFound), database.transaction() as cursor:
            cursor.execute("INSERT")
            raise UserNotFound
        assert connection.closed  # it is still in its transaction
        transact(database)
        assert len(server.connections) == 2
        assert database.stats().in_use == 0

    def test_commit_answered_with_rollback_is_no_success(
        self, database: Database, connection: FakeConnection
    ) -> None:
        connection.answers["COMMIT"] = "ROLLBACK"
        with pytest.raises(TransientFailure, match="rolled back instead of committing"):
            transact(database)
        assert database.stats().in_use == 0


class TestTransactionPooling:
    """The settings of a session go along with each transaction, since PgBouncer shares sessions."""

    SETTINGS = (
        "SET LOCAL statement_timeout = '2500'; "
        "SET LOCAL idle_in_transaction_session_timeout = '2500'; SET LOCAL timezone = 'UTC'; "
    )

    @pytest.mark.parametrize(
        ("use", "sent"),
        [
            (read, [SETTINGS + "SELECT 1"]),
            (write, [SETTINGS + "INSERT"]),
            (transact, [f"{BEGIN}; {SETTINGS}INSERT", "COMMIT"]),
        ],
    )
    def test_settings_go_along(
        self, server: Server, use: Callable[[Database], None], sent: list[str]
    ) -> None:
        database = Database("dbname=f", size=1, statement_timeout=2.5, transaction_pooling=True)
        use(database)
        assert server.connections[0].sent == sent


class TestOpenAndClose:
    def test_are_logged_once_and_nothing_is_lent_after_close(
        self, server: Server, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "user_service")
        database = Database("dbname=fake", size=3)
        assert server.connections == []
        database.open()
        (connection,) = server.connections
        assert connection.autocommit
        assert database.stats() == PoolStats(size=3, in_use=0, waiting=0)
        database.close()
        database.close()
        assert caplog.messages == [
            "connection pool opened, for at most 3 connections",
            "connection pool closed",
        ]
        with pytest.raises(Unavailable, match="the connection pool is closed"):
            read(database)
        assert len(server.connections) == 1

    def test_close_closes_idle_connections_now_and_lent_ones_when_they_come_back(
        self, server: Server
    ) -> None:
        database = Database("dbname=fake", size=2)
        with database.transaction() as cursor:
            read(database)
            database.close()
            cursor.execute("INSERT")
            assert [each.closed for each in server.connections] == [0, 1]
        assert server.connections[0].statements == [BEGIN, "INSERT", "COMMIT"]
        assert all(each.closed for each in server.connections)
        assert database.stats().in_use == 0

    def test_connection_opened_while_the_pool_is_closed_is_closed_on_return(
        self, server: Server, database: Database
    ) -> None:
        server.on_connect = database.close
        read(database)
        assert server.connections[0].closed


class TestPrepare:
    def test_runs_before_the_first_connection_until_it_succeeds(self, server: Server) -> None:
        seen: list[int] = []

        def prepare() -> None:
            seen.append(len(server.connections))
            if len(seen) < 3:
                raise psycopg2.OperationalError("refused")

        database = Database("dbname=fake", size=1, prepare=prepare)
        for _ in range(2):  # and without a loss of the one slot
            with pytest.raises(ConnectionLost):
                read(database)
        read(database)
        read(database)
        assert seen == [0, 0, 0]

    @pytest.mark.parametrize(
        ("failure", "raised"),
        [
            (psycopg2.OperationalError("lost"), ConnectionLost),
            (psycopg2.InterfaceError("closed"), ConnectionLost),
            (error_with("53100"), Unavailable),
            (psycopg2.ProgrammingError("no such column"), NotPrepared),
        ],
        ids=repr,
    )
    def test_failure_is_classified(self, failure: Exception, raised: type[Exception]) -> None:
        def prepare() -> None:
            raise failure

        with pytest.raises(raised) as caught:
            Database("dbname=fake", prepare=prepare).open()
        assert type(caught.value) is raised


class TestBreaker:
    def fail(self, database: Database, times: int) -> None:
        for _ in range(times):
            with pytest.raises(ConnectionLost):
                read(database)

    @USES
    def test_opens_when_the_server_cannot_be_reached_and_closes_when_it_can(
        self,
        server: Server,
        database: Database,
        clock: SimpleNamespace,
        use: Callable[[Database], None],
    ) -> None:
        server.refuse()
        self.fail(database, 5)
        clock.now += OPEN_SECONDS
        self.fail(database, 1)  # the call that tries
        with pytest.raises(CircuitOpen, match="the database did not answer lately"):
            use(database)
        clock.now += OPEN_SECONDS
        server.on_connect = lambda: None
        use(database)
        assert database.breaker.state is State.CLOSED

    @pytest.mark.parametrize(
        ("use", "lost_at", "failure", "raised"),
        [
            (read, "SELECT 1", CLOSED, ConnectionLost),
            (read, "SELECT 1", TOO_SLOW, DeadlineExceeded),
            (write, "INSERT", CLOSED, OutcomeUnknown),
            (write, "INSERT", TOO_SLOW, OutcomeUnknown),
            (transact, "INSERT", TOO_SLOW, DeadlineExceeded),
            (transact, "INSERT", CLOSED, ConnectionLost),
            (transact, "COMMIT", CLOSED, OutcomeUnknown),
            (transact, "COMMIT", TOO_SLOW, OutcomeUnknown),
            (transact, "COMMIT", error_with("57P01"), OutcomeUnknown),
        ],
        ids=repr,
    )
    def test_counts_every_kind_of_silence(  # noqa: PLR0913, PLR0917 -- fixtures
        self,
        server: Server,
        database: Database,
        use: Callable[[Database], None],
        lost_at: str,
        failure: Exception,
        raised: type[Exception],
    ) -> None:
        server.faults = {lost_at: failure}
        for _ in range(5):
            assert database.breaker.state is State.CLOSED
            with pytest.raises(raised):
                use(database)
        assert database.breaker.state is State.OPEN
        assert len(server.connections) == 5  # each lost one is replaced
        assert database.stats().in_use == 0

    @pytest.mark.usefixtures("server")
    def test_no_request_waits_for_a_connection_while_it_is_open(self) -> None:
        database = Database("dbname=fake", size=1, checkout_timeout=0.01)
        with database.read():
            open_breaker(database)
            with pytest.raises(CircuitOpen):  # and no PoolTimeout
                read(database)

    @pytest.mark.usefixtures("server")
    def test_request_that_waited_while_it_opened_gives_its_slot_back(self) -> None:
        database = Database("dbname=fake", size=1, checkout_timeout=LONG)
        with ThreadPoolExecutor(1) as threads:
            with database.read():
                late = threads.submit(read, database)
                eventually(lambda: database.stats().waiting == 1)
                open_breaker(database)
            with pytest.raises(CircuitOpen):
                late.result(LONG)
        eventually(lambda: database.breaker.state is State.HALF_OPEN)
        read(database)


class TestReadiness:
    def test_cannot_open_the_breaker_and_closes_it(
        self, server: Server, database: Database, clock: SimpleNamespace
    ) -> None:
        server.refuse()
        for _ in range(9):
            assert not database.is_ready()
        assert database.breaker.state is State.CLOSED
        open_breaker(database)
        clock.now += OPEN_SECONDS
        assert not database.is_ready()
        with pytest.raises(CircuitOpen):
            read(database)
        clock.now += OPEN_SECONDS
        server.on_connect = lambda: None
        assert database.is_ready()
        assert database.breaker.state is State.CLOSED

    def test_of_a_pool_in_full_use_is_told_by_the_breaker(self, database: Database) -> None:
        with database.read():
            assert database.is_ready()
            open_breaker(database)
            assert not database.is_ready()

    @pytest.mark.usefixtures("server")
    def test_of_a_pool_that_waits_for_its_preparation_is_not_given(self) -> None:
        prepared = threading.Event()
        database = Database("dbname=fake", size=1, prepare=lambda: prepared.wait(LONG))
        with ThreadPoolExecutor(1) as threads:
            first = threads.submit(read, database)
            eventually(lambda: database.stats().in_use == 1)
            assert not database.is_ready()
            prepared.set()
            first.result(LONG)
        assert database.is_ready()


def test_log_tells_once_that_the_pool_is_full_until_it_is_not(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    full = "connection pool is full: all 1 connections are in use"
    for times in (1, 2):
        with database.read():
            for _ in range(3):
                with pytest.raises(PoolTimeout):
                    read(database)
        assert caplog.messages == [full] * times
