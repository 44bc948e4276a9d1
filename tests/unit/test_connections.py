"""Loans of connections: FIFO, never lost, and shared while the server refuses more."""

import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from psycopg2.extensions import TRANSACTION_STATUS_IDLE

from tests.waiting import eventually
from user_service.database.connections import GROW_SECONDS, SHRINK_SECONDS, Connections
from user_service.errors import ConnectionLost, PoolTimeout

SERVICE = Path(__file__).parents[2] / "services" / "user-service"
LONG = 30.0  # seconds


class FakeConnection:
    closed = 0
    info = SimpleNamespace(transaction_status=TRANSACTION_STATUS_IDLE)

    def close(self) -> None:
        self.closed = 1


class Server:
    """Has room for ``room`` connections, for clients that know ``password``."""

    def __init__(self) -> None:
        self.room = 100
        self.password = "old"
        self.connections: list[FakeConnection] = []
        self.refused = 0

    @property
    def open(self) -> int:
        return sum(not each.closed for each in self.connections)

    def connect(self, password: str) -> FakeConnection:
        if self.open >= self.room or password != self.password:
            self.refused += 1
            raise ConnectionLost("too many connections")
        self.connections.append(FakeConnection())
        return self.connections[-1]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server()
    monkeypatch.setattr("user_service.database.connections.connect", server.connect)
    return server


@pytest.fixture
def clock() -> SimpleNamespace:
    return SimpleNamespace(now=0.0)


Make = Callable[..., Connections]


@pytest.fixture
def make(server: Server, clock: SimpleNamespace) -> Make:
    def make(size: int, *, lent: int = 0) -> Connections:
        connections = Connections(
            "old", size, current_dsn=lambda: server.password, clock=lambda: clock.now
        )
        for _ in range(lent):
            borrow(connections)
        return connections

    return make


def borrow(connections: Connections, timeout: float = 0) -> Any:
    connections.begin(timeout)
    try:
        return connections.idle() or connections.open(timeout)
    except BaseException:
        connections.end(None)
        raise


def waiting(
    connections: Connections, threads: ThreadPoolExecutor, number: int
) -> list[Future[Any]]:
    """Return ``number`` callers that wait for a loan, in the order of their arrival."""
    waits = []
    for _ in range(number):
        waits.append(threads.submit(borrow, connections, LONG))
        eventually(lambda: connections.waiting == len(waits))
    return waits


class TestQueue:
    def test_longest_waiting_caller_is_next_and_gets_the_connection(self, make: Make) -> None:
        connections = make(1)
        lent = borrow(connections)
        with ThreadPoolExecutor(3) as threads:
            waits = waiting(connections, threads, 3)
            for number, each in enumerate(waits):
                connections.end(lent)
                assert each.result(LONG) is lent
                assert not any(later.done() for later in waits[number + 1 :])

    def test_new_caller_does_not_overtake_a_waiting_one(self, make: Make) -> None:
        connections = make(1)
        lent = borrow(connections)
        with ThreadPoolExecutor(1) as threads:
            (first,) = waiting(connections, threads, 1)
            connections.end(lent)
            with pytest.raises(PoolTimeout):  # whether or not the other thread runs by now
                connections.begin()
            assert first.result(LONG) is lent

    def test_caller_that_gave_up_leaves_its_turn(self, make: Make) -> None:
        connections = make(1)
        lent = borrow(connections)
        with pytest.raises(PoolTimeout, match="no connection came free, all 1 are in use"):
            connections.begin(0.01)
        connections.end(lent)
        assert borrow(connections) is lent

    def test_loan_that_begins_with_the_time_out_is_taken(
        self, make: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        connections = make(1)
        lent = borrow(connections)

        class LateTurn:
            """A lock whose time is up just before it is released."""

            def acquire(self, timeout: float | None = None) -> None:
                if timeout is not None:
                    connections.end(lent)

            def release(self) -> None: ...

        monkeypatch.setattr(threading, "Lock", LateTurn)
        assert borrow(connections, LONG) is lent
        assert connections.lent == 1

    @pytest.mark.parametrize("handed_over", ["handed over", ""])
    def test_caller_that_is_ended_while_it_waits_loses_no_loan(self, handed_over: str) -> None:
        """A server may end a request that takes too long, as gevent kills a greenlet."""
        program = """
from gevent import monkey; monkey.patch_all()
import gevent, sys
from user_service.database.connections import Connections

connections = Connections("", 1, current_dsn=str)
connections.begin()
waits = gevent.spawn(connections.begin, 30)
gevent.sleep(0)
if sys.argv[1]:
    connections.end(None)
waits.kill()
if not sys.argv[1]:
    connections.end(None)
elif waits.successful() and waits.value is None:  # the loan began before it was ended
    connections.end(None)
connections.begin()
assert (connections.lent, connections.waiting) == (1, 0)
"""
        command = [sys.executable, "-c", program, handed_over]
        subprocess.run(command, check=True, timeout=LONG, cwd=SERVICE)


class TestServerWithoutRoom:
    def test_refuses_the_first_connection(self, make: Make, server: Server) -> None:
        server.room = 0
        connections = make(2)
        for _ in range(3):
            with pytest.raises(ConnectionLost):
                borrow(connections, LONG)
        assert connections.lent == 0

    def test_connections_that_exist_are_shared(
        self, make: Make, server: Server, caplog: pytest.LogCaptureFixture
    ) -> None:
        server.room = 2
        connections = make(9)
        lent = [borrow(connections), borrow(connections)]
        with ThreadPoolExecutor(4) as threads:
            waits = waiting(connections, threads, 4)
            for _ in range(2):
                for each in lent:
                    connections.end(each)
                lent = [each.result(LONG) for each in waits[:2]]
                del waits[:2]
        assert server.refused == 1  # the others waited without asking
        assert caplog.messages == [
            "connection pool continues with 2 of 9 connections: too many connections"
        ]

    def test_wait_for_another_is_bounded_and_loses_no_loan(
        self, make: Make, server: Server
    ) -> None:
        server.room = 1
        connections = make(9)
        lent = borrow(connections)
        for timeout in (0, 0.01):
            with pytest.raises(PoolTimeout):
                borrow(connections, timeout)
        assert connections.lent == 1
        connections.end(lent)
        assert borrow(connections) is lent

    def test_lost_connection_is_opened_again(self, make: Make, server: Server) -> None:
        server.room = 1
        connections = make(9)
        lent = borrow(connections)
        with ThreadPoolExecutor(1) as threads:
            (late,) = waiting(connections, threads, 1)
            lent.close()
            connections.end(lent)
            assert late.result(LONG) is not lent

    def test_is_asked_again_after_a_while(
        self, make: Make, server: Server, clock: SimpleNamespace
    ) -> None:
        server.room = 1
        connections = make(3, lent=1)
        for _ in range(3):
            with pytest.raises(PoolTimeout):
                borrow(connections)
        assert server.refused == 1
        clock.now += GROW_SECONDS
        for _ in range(3):
            with pytest.raises(PoolTimeout):
                borrow(connections)
        assert server.refused == 2
        server.room = 3
        clock.now += GROW_SECONDS
        borrow(connections)
        borrow(connections)
        assert (server.open, connections.lent) == (3, 3)

    def test_longest_waiting_caller_asks_again(
        self, make: Make, server: Server, clock: SimpleNamespace
    ) -> None:
        server.room = 1
        connections = make(2, lent=1)
        with ThreadPoolExecutor(1) as threads:
            (late,) = waiting(connections, threads, 1)
            server.room = 2
            clock.now += GROW_SECONDS
            with pytest.raises(PoolTimeout):
                connections.begin()
            assert late.result(LONG) is server.connections[1]


def test_idle_connections_that_were_not_needed_for_a_while_are_closed(
    make: Make, server: Server, clock: SimpleNamespace
) -> None:
    connections = make(5)
    for lent in [borrow(connections) for _ in range(5)]:
        connections.end(lent)
    for _ in range(2):  # the busiest moment of the first period is its beginning
        assert server.open == 5
        clock.now += SHRINK_SECONDS
        connections.end(borrow(connections))
    for _ in range(5):
        connections.end(borrow(connections))
    assert server.open == 1


def test_password_that_has_changed_is_used_after_a_refusal(make: Make, server: Server) -> None:
    connections = make(2, lent=1)
    server.password = "new"
    borrow(connections)
    assert (server.open, server.refused) == (2, 1)
