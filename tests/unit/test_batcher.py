"""Reads by key that share a round trip, of a server that answers when a test says so."""

import threading
from collections.abc import Callable, Iterator, Set
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from pytest_mock import MockerFixture

from tests.waiting import LONG, eventually
from user_service.errors import ConnectionLost, DeadlineExceeded
from user_service.resilience import batcher, deadline
from user_service.resilience.batcher import Batcher


class Server:
    """Answers key n with str(n). It notes each read, and holds up that of key 1."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.go_on = threading.Event()
        self.failure: Exception | None = None  # of shared reads

    def read(self, keys: Set[int]) -> dict[int, str]:
        self.asked.append(sorted(keys))
        assert keys != {1} or self.go_on.wait(LONG)
        if self.failure is not None and len(keys) > 1:
            raise self.failure
        return {key: str(key) for key in keys}


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def reads(server: Server, monkeypatch: pytest.MonkeyPatch) -> Batcher[int, str]:
    monkeypatch.setattr(batcher, "LONGEST_WAIT", LONG)
    return Batcher(server.read)


Gather = Callable[..., list[Future[str]]]


@pytest.fixture
def gathered(server: Server, reads: Batcher[int, str], mocker: MockerFixture) -> Iterator[Gather]:
    """Return a function that returns reads which gathered while one of key 1 was under way."""
    # Each read begins a batch, and makes a future, or is about to wait for one.
    begun = mocker.spy(batcher, "Future").call_args_list
    joined = mocker.spy(deadline, "remaining").call_args_list
    with ThreadPoolExecutor(8) as threads:

        def gather(*keys: int, meanwhile: Callable[[], object] = lambda: None) -> list[Future[str]]:
            first = threads.submit(reads.get, 1)
            eventually(lambda: server.asked == [[1]])
            gathering: list[Future[str]] = []
            for key in keys:
                gathering.append(threads.submit(reads.get, key))
                eventually(lambda: len(begun + joined) == 1 + len(gathering))
            meanwhile()
            server.go_on.set()
            assert first.result(LONG) == "1"
            return gathering

        yield gather


def test_reads_that_come_while_one_is_under_way_share_the_next(
    gathered: Gather, reads: Batcher[int, str], server: Server
) -> None:
    answers = gathered(2, 3, 4)
    assert [each.result(LONG) for each in answers] == ["2", "3", "4"]
    assert server.asked == [[1], [2, 3, 4]]
    assert reads.get(5) == "5"


def test_failed_shared_read_is_repeated_individually(gathered: Gather, server: Server) -> None:
    server.failure = ConnectionLost("lost")
    leader, *others = gathered(2, 3, 4)
    with pytest.raises(ConnectionLost):
        leader.result(LONG)
    assert [each.result(LONG) for each in others] == ["3", "4"]
    assert sorted(server.asked[2:]) == [[3], [4]]


def test_caller_waits_until_its_deadline(gathered: Gather, reads: Batcher[int, str]) -> None:
    def hurry() -> None:
        with deadline.within(0.01), pytest.raises(DeadlineExceeded):
            reads.get(3)

    (leader,) = gathered(2, meanwhile=hurry)
    assert leader.result(LONG) == "2"


def test_read_that_takes_too_long_is_not_waited_for(server: Server) -> None:
    reads = Batcher(server.read)
    with ThreadPoolExecutor(1) as thread:
        stuck = thread.submit(reads.get, 1)
        eventually(lambda: server.asked == [[1]])
        assert reads.get(2) == "2"
        server.go_on.set()
        assert stuck.result(LONG) == "1"
