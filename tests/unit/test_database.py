"""The database, on connections that fail when a test says so."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from types import SimpleNamespace

import psycopg2
import pytest
from psycopg2.extensions import (
    TRANSACTION_STATUS_IDLE,
    TRANSACTION_STATUS_INTRANS,
    TRANSACTION_STATUS_UNKNOWN,
)

from tests.unit.conftest import Clock, error_with
from tests.waiting import LONG, eventually
from user_service.database.database import OPEN_SECONDS, Database
from user_service.errors import (
    CircuitOpen,
    ConnectionLost,
    DeadlineExceeded,
    OutcomeUnknown,
    PoolTimeout,
    ReplicaUnusable,
    TransientFailure,
    Unavailable,
    UserNotFound,
)
from user_service.resilience import deadline
from user_service.resilience.breaker import CircuitBreaker, State

BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"


class FakeConnection:
    """Knows BEGIN, COMMIT and ROLLBACK; the server's other answers are those of ``Server``."""

    closed = 0
    timeline = 0
    kept_socket = None
    servers = ()

    def __init__(self, server: "Server") -> None:
        self._server = server
        self.info = SimpleNamespace(transaction_status=TRANSACTION_STATUS_IDLE)

    def cursor(self) -> "FakeCursor":
        return FakeCursor(self)

    def run(self, statement: str) -> str:
        if statement in self._server.faults:
            self.close()
            raise self._server.faults[statement]
        if statement in self._server.refused:
            raise self._server.refused[statement]
        if statement == BEGIN:
            self.info.transaction_status = TRANSACTION_STATUS_INTRANS
        elif statement in {"COMMIT", "ROLLBACK"}:
            self.info.transaction_status = TRANSACTION_STATUS_IDLE
        return self._server.answers.get(statement, statement)

    def poll(self) -> None:
        pass

    def rollback(self) -> None:
        raise AssertionError("a connection in a transaction must not be put back")

    def close(self) -> None:
        self.closed = 1
        self.info.transaction_status = TRANSACTION_STATUS_UNKNOWN


class FakeCursor(AbstractContextManager["FakeCursor"]):
    """Sends SQL ahead as ``Cursor`` does, of which the integration tests are."""

    ahead_of_next = ahead_of_each = ""

    def __init__(self, connection: FakeConnection) -> None:
        self.connection = connection
        self.statusmessage: str | None = None

    def __exit__(self, *_exception: object) -> None:
        pass

    def execute(self, query: str, _vars: object = None) -> None:
        query = self.ahead_of_next + self.ahead_of_each + query
        self.ahead_of_next = ""
        if self.connection.closed:
            raise psycopg2.InterfaceError("connection already closed")
        for statement in query.split("; "):
            self.statusmessage = self.connection.run(statement)


class Server:
    """Stands in for ``connect`` and keeps the connections that it made."""

    def __init__(self) -> None:
        self.connections: list[FakeConnection] = []
        self.refusal: BaseException | None = None
        self.on_connect: Callable[[], object] = lambda: None
        self.faults: dict[str, BaseException] = {}  # statements that lose their connection
        self.refused: dict[str, BaseException] = {}  # statements that do not
        self.answers: dict[str, str] = {}  # instead of the statement

    def connect(self, *_: object, **__: object) -> FakeConnection:
        if self.refusal:
            raise self.refusal
        self.on_connect()
        connection = FakeConnection(self)
        self.connections.append(connection)
        return connection


@pytest.fixture(autouse=True)
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server()
    monkeypatch.setattr("user_service.database.pool.connect", server.connect)
    return server


@pytest.fixture
def database(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Database:
    """A database with a single slot, so that the next checkout notices a lost one."""
    breaker = partial(CircuitBreaker, clock=clock)
    monkeypatch.setattr("user_service.database.database.CircuitBreaker", breaker)
    return Database("dbname=fake", size=1, checkout_timeout=0.01)


REFUSED = ConnectionLost("refused")
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


Use = Callable[..., None]
USES = pytest.mark.parametrize("use", [read, write, transact])


def open_breaker(database: Database) -> None:
    for _ in range(5):
        with pytest.raises(ConnectionLost), database.breaker.calling():
            raise ConnectionLost


class TestCheckout:
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

    def test_connections_are_opened_in_parallel_and_idle_ones_lent(self, server: Server) -> None:
        database = Database("dbname=fake", size=3, checkout_timeout=LONG)
        connecting = threading.Barrier(3, timeout=LONG)
        go_on = threading.Event()
        with ThreadPoolExecutor(2) as threads:
            with database.read():
                server.on_connect = lambda: (connecting.wait(), go_on.wait(LONG))
                slowly = [threads.submit(read, database) for _ in range(2)]
                connecting.wait()
            read(database)
            assert not any(each.done() for each in slowly)
            go_on.set()
            for each in slowly:
                each.result(LONG)
        # Those that were opened meanwhile are idle, and lent when all are needed.
        with database.read(), database.read(), database.read():
            assert database.pool.lent == 3
        assert len(server.connections) == 3

    def test_connection_that_came_back_and_died_is_not_lent(self, server: Server) -> None:
        database = Database("dbname=fake", size=2, checkout_timeout=LONG)
        refuse = threading.Event()

        def refused() -> None:
            assert refuse.wait(LONG)
            raise REFUSED

        with ThreadPoolExecutor(1) as threads:
            with database.read():
                server.on_connect = refused
                late = threads.submit(write, database)
                eventually(lambda: database.pool.lent == 2)
            server.connections[0].close()
            refuse.set()
            with pytest.raises(ConnectionLost):  # nothing was sent
                late.result(LONG)
        assert database.pool.lent == 0

    @pytest.mark.parametrize("failure", [REFUSED, KeyboardInterrupt()], ids=repr)
    @USES
    def test_failing_to_connect_loses_no_slot(
        self, server: Server, database: Database, failure: BaseException, use: Use
    ) -> None:
        server.refusal = failure
        with pytest.raises(type(failure)):
            use(database)
        server.refusal = None
        use(database)
        assert database.pool.lent == 0


class TestRead:
    def test_lost_connection_takes_the_idle_ones_with_it(self, server: Server) -> None:
        server.faults = {"SELECT 1": CLOSED}
        database = Database("dbname=fake", size=3)
        with database.read(), database.read():
            read(database, "SELECT 2")
        with pytest.raises(ConnectionLost):
            read(database)
        assert [each.closed for each in server.connections] == [1, 1, 1]


@USES
def test_read_only_server_is_transient_keeps_no_connection_and_opens_no_breaker(
    server: Server, database: Database, use: Use
) -> None:
    server.refused = {"INSERT": error_with("25006")}
    for _ in range(9):
        with pytest.raises(TransientFailure):
            use(database, "INSERT")
        assert server.connections[-1].closed
    assert len(server.connections) == 9
    assert database.breaker.state is State.CLOSED
    read(database)


class TestTransaction:
    @pytest.mark.parametrize("failure", [CLOSED, TOO_SLOW])
    def test_rollback_that_fails_hides_nothing_and_loses_no_slot(
        self, server: Server, database: Database, failure: Exception
    ) -> None:
        server.refused = {"ROLLBACK": failure}
        with pytest.raises(UserNotFound), database.transaction() as cursor:
            cursor.execute("INSERT")
            raise UserNotFound
        assert server.connections[0].closed  # it is still in its transaction
        transact(database)
        assert len(server.connections) == 2
        assert database.pool.lent == 0

    def test_commit_answered_with_rollback_is_no_success(
        self, server: Server, database: Database
    ) -> None:
        server.answers = {"COMMIT": "ROLLBACK"}
        with pytest.raises(TransientFailure, match="rolled back instead of committing"):
            transact(database)
        assert database.pool.lent == 0


class TestOpenAndClose:
    def test_are_logged_once_and_nothing_is_lent_after_close(
        self, server: Server, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO", "user_service")
        database = Database("dbname=fake", size=3)
        assert server.connections == []
        database.open()
        database.close()
        database.close()
        assert caplog.messages == [
            "connection pool opened, for at most 3 connections",
            "connection pool closed",
        ]
        with pytest.raises(Unavailable, match="the connection pool is closed"):
            read(database)
        assert len(server.connections) == 1

    def test_closes_idle_connections_now_and_lent_ones_on_return(self, server: Server) -> None:
        database = Database("dbname=fake", size=2)
        with database.transaction() as cursor:
            read(database)
            database.close()
            cursor.execute("INSERT")
            assert [each.closed for each in server.connections] == [0, 1]
        assert all(each.closed for each in server.connections)
        assert database.pool.lent == 0

    def test_connection_opened_while_the_pool_is_closed_is_closed_on_return(
        self, server: Server, database: Database
    ) -> None:
        server.on_connect = database.close
        read(database)
        assert server.connections[0].closed


class TestBreaker:
    @pytest.mark.parametrize("use", [read, transact])
    @pytest.mark.parametrize(
        ("failure", "raised"), [(CLOSED, ConnectionLost), (TOO_SLOW, DeadlineExceeded)]
    )
    def test_counts_every_kind_of_silence(
        self,
        server: Server,
        database: Database,
        use: Use,
        failure: Exception,
        raised: type[Exception],
    ) -> None:
        server.faults = dict.fromkeys(("SELECT 1", "INSERT"), failure)
        for _ in range(5):
            assert database.breaker.state is State.CLOSED
            with pytest.raises(raised):
                use(database)
        assert database.breaker.state is State.OPEN
        assert len(server.connections) == 5  # each lost one is replaced
        assert database.pool.lent == 0

    @pytest.mark.parametrize(
        ("statement", "failure", "kept"),
        [("SELECT 1", DeadlineExceeded, 0), ("SELECT 2", ReplicaUnusable, 9)],
    )
    def test_closes_idle_connections_when_it_opens_for_silence_which_they_may_share(
        self, server: Server, statement: str, failure: type[Exception], kept: int
    ) -> None:
        database = Database("dbname=fake", size=9)
        with ExitStack() as lent:
            for _ in range(9):
                lent.enter_context(database.read())
        server.faults = {"SELECT 1": TOO_SLOW}
        server.refused = {"SELECT 2": ReplicaUnusable("it lags")}
        for _ in range(5):
            with pytest.raises(failure):
                read(database, statement)
        assert database.breaker.state is State.OPEN
        assert sum(not each.closed for each in server.connections) == kept

    @pytest.mark.parametrize(("use", "lost_at"), [(write, "INSERT"), (transact, "COMMIT")])
    @pytest.mark.parametrize(
        "failure", [CLOSED, TOO_SLOW, error_with("57P01"), OSError("too many open files")]
    )
    def test_commit_without_an_answer_tells_nothing_and_is_no_trial(  # noqa: PLR0913, PLR0917 -- fixtures
        self,
        server: Server,
        database: Database,
        clock: Clock,
        use: Use,
        lost_at: str,
        failure: Exception,
    ) -> None:
        server.faults = {lost_at: failure}
        for _ in range(9):
            with pytest.raises(OutcomeUnknown):
                use(database)
        assert database.breaker.state is State.CLOSED
        open_breaker(database)
        clock.now += OPEN_SECONDS
        with pytest.raises(OutcomeUnknown):
            use(database)
        assert database.breaker.state is State.CLOSED  # a read has tried before
        assert database.pool.lent == 0

    def test_no_request_waits_for_a_connection_while_it_is_open(self, database: Database) -> None:
        with database.read():
            open_breaker(database)
            with pytest.raises(CircuitOpen):  # and no PoolTimeout
                read(database)

    def test_request_that_waited_while_it_opened_gives_its_slot_back(self) -> None:
        database = Database("dbname=fake", size=1, checkout_timeout=LONG)
        with ThreadPoolExecutor(1) as threads:
            with database.read():
                late = threads.submit(read, database)
                eventually(lambda: database.pool.waiting == 1)
                open_breaker(database)
            with pytest.raises(CircuitOpen):
                late.result(LONG)
        eventually(lambda: database.breaker.state is State.HALF_OPEN)
        read(database)


class TestReadiness:
    def test_cannot_open_the_breaker_and_closes_it(
        self, server: Server, database: Database, clock: Clock
    ) -> None:
        server.refusal = REFUSED
        for _ in range(9):
            assert not database.is_ready()
        assert database.breaker.state is State.CLOSED
        open_breaker(database)
        clock.now += OPEN_SECONDS
        assert not database.is_ready()
        with pytest.raises(CircuitOpen):
            read(database)
        clock.now += OPEN_SECONDS
        server.refusal = None
        assert database.is_ready()
        assert database.breaker.state is State.CLOSED

    def test_of_a_pool_in_full_use_is_told_by_the_breaker(self, database: Database) -> None:
        with database.read():
            assert database.is_ready()
            open_breaker(database)
            assert not database.is_ready()

    def test_of_a_pool_that_waits_for_its_preparation_is_not_given(self) -> None:
        prepared = threading.Event()
        database = Database("dbname=fake", size=1, prepare=lambda: prepared.wait(LONG))
        with ThreadPoolExecutor(1) as threads:
            first = threads.submit(read, database)
            eventually(lambda: database.pool.lent == 1)
            assert not database.is_ready()
            prepared.set()
            first.result(LONG)
        assert database.is_ready()


def test_log_tells_once_that_the_pool_is_full_until_it_is_not(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    full = "connection pool is full: 1 connections are in use"
    for times in (1, 2):
        with database.read():
            for _ in range(3):
                with pytest.raises(PoolTimeout):
                    read(database)
        assert caplog.messages == [full] * times
