"""Single flight: one caller does the work, concurrent callers for the same key wait for it."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from pytest_mock import MockerFixture

from tests.waiting import LONG, eventually
from user_service.cache.single_flight import SingleFlight
from user_service.errors import DeadlineExceeded
from user_service.resilience import deadline

Flights = SingleFlight[str, object]


@pytest.fixture
def flights() -> Flights:
    return SingleFlight()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(20) as threads:
        yield threads


@pytest.fixture
def joined(mocker: MockerFixture) -> Sequence[object]:
    """One for each caller that is about to wait for a flight."""
    asked: Sequence[object] = mocker.spy(deadline, "remaining").call_args_list
    return asked


def never() -> object:
    pytest.fail("did the work although another caller does it")


def fail() -> object:
    raise KeyError("of a follower")


def lead(
    flights: Flights, threads: ThreadPoolExecutor, work: Callable[[], object]
) -> Future[object]:
    """Begin a flight, and return while ``work`` is under way."""
    begun = threading.Event()

    def announced() -> object:
        begun.set()
        return work()

    leader = threads.submit(flights.run, "key", announced)
    assert begun.wait(LONG)
    return leader


def test_one_of_many_concurrent_callers_does_the_work_and_the_next_caller_again(
    flights: Flights, joined: Sequence[object], threads: ThreadPoolExecutor
) -> None:
    def work() -> str:
        eventually(lambda: len(joined) == 19)
        return "value"

    leader = lead(flights, threads, work)
    followers = [threads.submit(flights.run, "key", never) for _ in range(19)]
    assert [each.result(LONG) for each in [leader, *followers]] == ["value"] * 20
    assert flights.run("key", lambda: "next") == "next"


def test_followers_do_the_work_themselves_if_the_leader_fails(
    flights: Flights, joined: Sequence[object], threads: ThreadPoolExecutor
) -> None:
    def fail_when_all_wait() -> object:
        eventually(lambda: len(joined) == 3)
        raise KeyError("of the leader")

    leader = lead(flights, threads, fail_when_all_wait)
    followers = [threads.submit(flights.run, "key", work) for work in (lambda: 1, lambda: 2, fail)]
    with pytest.raises(KeyError, match="of the leader"):
        leader.result(LONG)
    assert [each.result(LONG) for each in followers[:2]] == [1, 2]
    with pytest.raises(KeyError, match="of a follower"):
        followers[2].result(LONG)


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt, SystemExit])
def test_flight_that_failed_is_over(flights: Flights, error: type[BaseException]) -> None:
    def fail() -> object:
        raise error

    with pytest.raises(error):
        flights.run("key", fail)
    assert flights.run("key", lambda: "value") == "value"


def test_deadline_ends_the_wait_of_a_follower_and_not_the_work(
    flights: Flights, threads: ThreadPoolExecutor
) -> None:
    go_on = threading.Event()
    leader = lead(flights, threads, lambda: go_on.wait(LONG))
    with deadline.within(0):
        with pytest.raises(DeadlineExceeded, match="took too long"):
            flights.run("key", never)
        assert flights.run("another", lambda: "value") == "value"
    go_on.set()
    assert leader.result(LONG) is True
