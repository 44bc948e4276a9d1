"""Loans of connections: in turn, never lost, and shared while the server refuses more."""

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from psycopg2.extensions import TRANSACTION_STATUS_IDLE

from tests.e2e.service import run
from tests.unit.conftest import Clock
from tests.waiting import LONG, eventually
from user_service.database.pool import GROW_SECONDS, SHRINK_SECONDS, ConnectionPool
from user_service.errors import ConnectionLost, PoolTimeout
from user_service.resilience import deadline


class FakeConnection:
    closed = 0
    timeline = 0
    info = SimpleNamespace(transaction_status=TRANSACTION_STATUS_IDLE)

    def __init__(self, server: str, *others: str) -> None:
        self.server = server
        self.servers = [server, *others]
        self.waits, self.answered = threading.Event(), threading.Event()

    def close(self) -> None:
        self.closed = 1

    def wait_for_answer(self) -> None:
        self.waits.set()
        assert self.answered.wait(LONG)

    def give_up(self) -> None:
        self.answered.set()


class Server:
    """Has room for ``room`` connections."""

    def __init__(self) -> None:
        self.room = 1
        self.name = "one"
        self.timeline = 0
        self.others: list[str] = []  # servers with the same name
        self.connections: list[FakeConnection] = []
        self.refused = 0

    @property
    def open(self) -> int:
        return sum(not each.closed for each in self.connections)

    def connect(self, *_: object, **__: object) -> FakeConnection:
        if self.open >= self.room:
            self.refused += 1
            raise ConnectionLost("too many connections")
        self.connections.append(FakeConnection(self.name, *self.others))
        self.connections[-1].timeline = self.timeline
        return self.connections[-1]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server()
    monkeypatch.setattr("user_service.database.pool.connect", server.connect)
    return server


@pytest.fixture
def pool(server: Server, clock: Clock) -> ConnectionPool:
    return ConnectionPool("dsn", 5, current_dsn=lambda: "dsn", clock=clock)


def borrow(pool: ConnectionPool, timeout: float = 0) -> Any:
    pool.begin_loan(timeout)
    try:
        return pool.take_idle() or pool.open_new(timeout)
    except BaseException:
        pool.end_loan(None)
        raise


Wait = Callable[[int], list[Future[Any]]]


@pytest.fixture
def waiting(pool: ConnectionPool) -> Iterator[Wait]:
    """Return a function that returns callers which wait for a loan, in order of their arrival."""
    with ThreadPoolExecutor(4) as threads:

        def wait(number: int) -> list[Future[Any]]:
            waits = []
            for _ in range(number):
                waits.append(threads.submit(borrow, pool, LONG))
                eventually(lambda: pool.waiting == len(waits))
            return waits

        yield wait


@pytest.mark.usefixtures("server")
class TestQueue:
    @pytest.fixture
    def pool(self) -> ConnectionPool:
        return ConnectionPool("dsn", 1, current_dsn=lambda: "dsn")

    def test_longest_waiting_caller_is_next_and_gets_the_connection(
        self, pool: ConnectionPool, waiting: Wait
    ) -> None:
        lent = borrow(pool)
        waits = waiting(3)
        for number, each in enumerate(waits, 1):
            pool.end_loan(lent)
            with pytest.raises(PoolTimeout):  # a new caller does not overtake, whoever runs by now
                pool.begin_loan()
            assert each.result(LONG) is lent
            assert not any(later.done() for later in waits[number:])

    def test_caller_that_gave_up_leaves_its_turn(self, pool: ConnectionPool) -> None:
        lent = borrow(pool)
        with pytest.raises(PoolTimeout, match="no connection came free: 1 connections are in use"):
            pool.begin_loan(0.01)
        pool.end_loan(lent)
        assert borrow(pool) is lent

    def test_loan_that_begins_with_the_time_out_is_taken(
        self, pool: ConnectionPool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lent = borrow(pool)

        class LateTurn:
            """A lock whose time is up just before it is released."""

            def acquire(self, timeout: float | None = None) -> None:
                if timeout is not None:
                    pool.end_loan(lent)

            def release(self) -> None: ...

        monkeypatch.setattr(threading, "Lock", LateTurn)
        assert borrow(pool, LONG) is lent
        assert pool.lent == 1

    def test_writes_leave_a_quarter_of_the_loans_to_reads(self) -> None:
        pool = ConnectionPool("dsn", 4, current_dsn=lambda: "dsn")
        order: list[str] = []

        def wait(name: str) -> None:
            pool.begin_loan(LONG, writes="write" in name)
            order.append(name)

        for _ in range(3):
            pool.begin_loan(writes=True)
        with pytest.raises(PoolTimeout, match="3 connections are in use, 3 of them by writes"):
            pool.begin_loan(writes=True)
        pool.begin_loan()
        with ThreadPoolExecutor(3) as threads:
            for name in ("write", "read", "next write"):
                waiting = pool.waiting
                threads.submit(wait, name)
                eventually(partial(lambda number: pool.waiting > number, waiting))
            pool.end_loan(None)
            eventually(lambda: order == ["read"])  # the write before it has to wait for a write
            pool.end_loan(None, writes=True)
            eventually(lambda: order == ["read", "write"])
            pool.end_loan(None, writes=True)
        assert order == ["read", "write", "next write"]

    @pytest.mark.parametrize("handed_over", ["handed over", ""])
    def test_caller_that_is_ended_while_it_waits_loses_no_loan(self, handed_over: str) -> None:
        """A server may end a request that takes too long, as gevent kills a greenlet."""
        program = """
from gevent import monkey; monkey.patch_all()
import gevent, sys
from user_service.database.pool import ConnectionPool

pool = ConnectionPool("", 1, current_dsn=str)
pool.begin_loan()
waits = gevent.spawn(pool.begin_loan, 30)
gevent.sleep(0)
if sys.argv[1]:
    pool.end_loan(None)
waits.kill()
if not sys.argv[1]:
    pool.end_loan(None)
elif waits.successful() and waits.value is None:  # the loan began before it was ended
    pool.end_loan(None)
pool.begin_loan()
assert (pool.lent, pool.waiting) == (1, 0)
"""
        ended = run([sys.executable, "-c", program, handed_over], {})
        assert ended.returncode == 0, ended.stderr


class TestServerWithoutRoom:
    """``tests/integration/test_postgres_server.py`` has pools that share what there is."""

    def test_wait_for_another_is_bounded_and_loses_no_loan(self, pool: ConnectionPool) -> None:
        lent = borrow(pool)
        for timeout in (0, 0.01):
            with pytest.raises(PoolTimeout):
                borrow(pool, timeout)
        assert pool.lent == 1
        pool.end_loan(lent)
        assert borrow(pool) is lent

    def test_server_that_has_not_answered_in_time_is_not_taken_for_a_full_one(
        self, pool: ConnectionPool
    ) -> None:
        borrow(pool)
        with deadline.within(0), pytest.raises(ConnectionLost):
            borrow(pool, 1)
        assert pool.lent == 1

    def test_lost_connection_is_opened_again(self, pool: ConnectionPool, waiting: Wait) -> None:
        lent = borrow(pool)
        (late,) = waiting(1)
        lent.close()
        pool.end_loan(lent)
        assert late.result(LONG) is not lent

    def test_is_asked_again_after_a_while(
        self, pool: ConnectionPool, server: Server, clock: Clock
    ) -> None:
        borrow(pool)
        for refused in (1, 2):
            for _ in range(3):
                with pytest.raises(PoolTimeout):
                    borrow(pool)
            assert server.refused == refused
            clock.now += GROW_SECONDS
        server.room = 3
        borrow(pool)
        borrow(pool)
        assert (server.open, pool.lent) == (3, 3)

    def test_longest_waiting_caller_asks_again(
        self, pool: ConnectionPool, server: Server, clock: Clock, waiting: Wait
    ) -> None:
        borrow(pool)
        (late,) = waiting(1)
        server.room = 2
        clock.now += GROW_SECONDS
        with pytest.raises(PoolTimeout):
            pool.begin_loan()
        assert late.result(LONG) is server.connections[1]

    def test_one_is_given_up_for_another_process_however_busy_this_one_is(
        self, pool: ConnectionPool, server: Server, clock: Clock, waiting: Wait
    ) -> None:
        server.room = 2
        lent = [borrow(pool) for _ in range(2)]
        (late,) = waiting(1)
        clock.now += SHRINK_SECONDS
        pool.end_loan(lent.pop())
        another = ConnectionPool("", 5, current_dsn=lambda: "", clock=clock)
        borrow(another)
        pool.end_loan(lent.pop())
        assert late.result(LONG)
        assert server.open == 2


@contextmanager
def unanswered(pool: ConnectionPool, lent: Any) -> Iterator[None]:
    """Wait for the answer to a commit, which comes at the end of the block."""
    with ThreadPoolExecutor(1) as threads:
        waits = threads.submit(pool.wait_for_answer, lent)
        assert lent.waits.wait(LONG)
        yield
        lent.answered.set()
        waits.result(LONG)


def test_connection_of_an_unanswered_commit_is_not_expected_to_come_back(
    pool: ConnectionPool, waiting: Wait
) -> None:
    """The server may be away, which the circuit breaker has to learn."""
    lent = borrow(pool)
    (late,) = waiting(1)
    with unanswered(pool, lent):
        with pytest.raises(ConnectionLost):
            late.result(LONG)
        for _ in range(2):
            with pytest.raises(ConnectionLost):
                borrow(pool, 0.01)


def test_last_connection_beside_an_unanswered_commit_is_kept(
    pool: ConnectionPool, server: Server, clock: Clock
) -> None:
    server.room = 2
    lent = [borrow(pool) for _ in range(2)]
    with pytest.raises(PoolTimeout):
        borrow(pool)
    with unanswered(pool, lent[0]):
        clock.now += SHRINK_SECONDS
        pool.end_loan(lent[1])
        assert borrow(pool) is lent[1]


@pytest.mark.parametrize(
    ("others", "is_given_up"),
    [
        pytest.param([], True, id="old primary"),
        pytest.param(["one"], False, id="one of several with one name"),
    ],
)
def test_answer_is_waited_for_until_the_server_is_an_old_primary(
    pool: ConnectionPool, server: Server, others: list[str], is_given_up: bool
) -> None:
    server.room = 3
    server.others = others
    lent = borrow(pool)
    with unanswered(pool, lent):
        borrow(pool)
        assert not lent.answered.is_set()
        server.name = "other"
        borrow(pool)
        assert lent.answered.is_set() is is_given_up


def test_answer_of_an_old_primary_is_not_waited_for_after_another_was_found(
    pool: ConnectionPool, server: Server
) -> None:
    server.room = 2
    lent = borrow(pool)
    server.name = "other"
    pool.end_loan(borrow(pool))
    pool.wait_for_answer(lent)


def test_old_primary_that_answers_after_the_new_one_is_asked_for_nothing(
    server: Server, pool: ConnectionPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.room, server.timeline = 3, 2
    late = FakeConnection("old")
    late.timeline = 1

    def connect(*_: object, **__: object) -> FakeConnection:
        monkeypatch.setattr("user_service.database.pool.connect", server.connect)
        borrow(pool)
        return late

    monkeypatch.setattr("user_service.database.pool.connect", connect)
    assert borrow(pool).timeline == 2
    assert late.closed
    assert pool.lent == server.open == 2


def test_connections_that_come_back_while_a_new_primary_is_found_are_not_lent(
    server: Server, pool: ConnectionPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.room, server.timeline = 5, 1
    early, late = borrow(pool), borrow(pool)

    def connect(*_: object, **__: object) -> FakeConnection:
        pool.end_loan(early)
        server.timeline = 2
        return server.connect()

    monkeypatch.setattr("user_service.database.pool.connect", connect)
    assert borrow(pool).timeline == 2
    pool.end_loan(late)
    assert (pool.take_idle(), pool.lent, server.open) == (None, 1, 1)


def test_idle_connections_that_were_not_needed_for_a_while_are_closed(
    pool: ConnectionPool, server: Server, clock: Clock
) -> None:
    server.room = 5
    for lent in [borrow(pool) for _ in range(5)]:
        pool.end_loan(lent)
    for _ in range(2):  # the busiest moment of the first period is its beginning
        assert server.open == 5
        clock.now += SHRINK_SECONDS
        pool.end_loan(borrow(pool))
    assert server.open == 1


def test_burst_after_a_quiet_minute_keeps_what_it_opens(
    pool: ConnectionPool, server: Server, clock: Clock
) -> None:
    server.room = 5
    clock.now += SHRINK_SECONDS
    pool.end_loan(borrow(pool))
    for _ in range(2):
        for lent in [borrow(pool) for _ in range(5)]:
            pool.end_loan(lent)
    assert len(server.connections) == pool.made == 5


def test_closing_idle_connections_loses_no_slot_to_those_that_are_opened_meanwhile(
    pool: ConnectionPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "user_service.database.pool.connect", lambda *_, **__: FakeConnection("one")
    )
    done = threading.Event()

    def borrow_repeatedly() -> None:
        while not done.is_set():
            pool.end_loan(borrow(pool, LONG))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(pool.size) as threads:
            borrowing = [threads.submit(borrow_repeatedly) for _ in range(pool.size)]
            for _ in range(3000):
                pool.close_idle()
            done.set()
            for each in borrowing:
                each.result()
    finally:
        sys.setswitchinterval(interval)
    assert len([borrow(pool) for _ in range(pool.size)]) == pool.size
