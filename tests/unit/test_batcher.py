"""Reads by key that share a round trip, of a server that answers when a test says so."""

import threading
from collections.abc import Callable, Iterator, Set
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.waiting import eventually
from user_service.errors import ConnectionLost, DeadlineExceeded
from user_service.resilience import batcher, deadline
from user_service.resilience.batcher import Batcher

LONG = 30.0  # seconds


class Server:
    """Answers key n with str(n), for 1 to 9. Each read is noted and passes ``gate``."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.gate: Callable[[list[int]], object] = lambda _: None

    def read(self, keys: Set[int]) -> dict[int, str]:
        self.asked.append(sorted(keys))
        self.gate(self.asked[-1])
        return {key: str(key) for key in keys if key < 10}


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def reads(server: Server, monkeypatch: pytest.MonkeyPatch) -> Batcher[int, str]:
    monkeypatch.setattr(batcher, "LONGEST_WAIT", LONG)
    return Batcher(server.read)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        yield threads


def gathered(
    reads: Batcher[int, str],
    server: Server,
    threads: ThreadPoolExecutor,
    keys: list[int],
    meanwhile: Callable[[], object] = lambda: None,
) -> list[Future[str | None]]:
    """Return reads of ``keys`` that gathered while a read of key 1 was under way."""
    go_on = threading.Event()
    server.gate = lambda asked: asked != [1] or go_on.wait(LONG)
    first = threads.submit(reads.get, 1)
    eventually(lambda: server.asked == [[1]])
    gathering = []
    for number, key in enumerate(keys, 1):
        gathering.append(threads.submit(reads.get, key))
        eventually(lambda number=number: reads.gathering == number)  # type: ignore[misc]
    meanwhile()
    go_on.set()
    assert first.result(LONG) == "1"
    return gathering


def test_reads_that_come_while_one_is_under_way_share_the_next(
    reads: Batcher[int, str], server: Server, threads: ThreadPoolExecutor
) -> None:
    answers = gathered(reads, server, threads, [2, 3, 4])
    assert [each.result(LONG) for each in answers] == ["2", "3", "4"]
    assert server.asked == [[1], [2, 3, 4]]
    assert reads.get(5) == "5"


def test_missing_key_is_missing_for_its_own_caller(
    reads: Batcher[int, str], server: Server, threads: ThreadPoolExecutor
) -> None:
    missing, found = gathered(reads, server, threads, [77, 2])
    assert (missing.result(LONG), found.result(LONG)) == (None, "2")


def test_failed_shared_read_is_repeated_individually(
    reads: Batcher[int, str], server: Server, threads: ThreadPoolExecutor
) -> None:
    def fail_if_shared(keys: list[int]) -> None:
        if len(keys) > 1:
            raise ConnectionLost("lost")

    def break_server() -> None:
        passes = server.gate
        server.gate = lambda keys: passes(keys) if keys == [1] else fail_if_shared(keys)

    leader, *others = gathered(reads, server, threads, [2, 3, 4], break_server)
    with pytest.raises(ConnectionLost):
        leader.result(LONG)
    assert [each.result(LONG) for each in others] == ["3", "4"]
    assert sorted(server.asked[2:]) == [[3], [4]]


def test_caller_waits_for_others_no_longer_than_its_deadline(
    reads: Batcher[int, str], server: Server, threads: ThreadPoolExecutor
) -> None:
    def hurry() -> None:
        with deadline.within(0.01), pytest.raises(DeadlineExceeded):
            reads.get(3)

    (leader,) = gathered(reads, server, threads, [2], hurry)
    assert leader.result(LONG) == "2"


def test_read_that_takes_too_long_is_not_waited_for(
    server: Server, threads: ThreadPoolExecutor
) -> None:
    reads = Batcher(server.read)
    go_on = threading.Event()
    server.gate = lambda asked: asked != [1] or go_on.wait(LONG)
    stuck = threads.submit(reads.get, 1)
    eventually(lambda: server.asked == [[1]])
    assert reads.get(2) == "2"
    go_on.set()
    assert stuck.result(LONG) == "1"
