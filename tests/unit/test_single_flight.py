"""Single flight: one caller does the work, concurrent callers for the same key wait for it."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from user_service.cache.single_flight import SingleFlight
from user_service.errors import DeadlineExceeded
from user_service.resilience import deadline

LONG = 30.0  # seconds; only a test that fails waits so long

Flights = SingleFlight[str, object]


@pytest.fixture
def flights() -> Flights:
    return SingleFlight()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(20) as threads:
        yield threads


def wait_for(semaphore: threading.Semaphore, times: int) -> None:
    for _ in range(times):
        assert semaphore.acquire(timeout=LONG)


def never() -> object:
    pytest.fail("did the work although another caller does it")


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


def test_one_of_many_concurrent_callers_does_the_work(
    flights: Flights, joined: threading.Semaphore, threads: ThreadPoolExecutor
) -> None:
    value = object()

    def end_when_all_wait() -> object:
        wait_for(joined, 19)
        return value

    leader = lead(flights, threads, end_when_all_wait)
    followers = [threads.submit(flights.run, "key", never) for _ in range(19)]
    assert all(each.result(LONG) is value for each in [leader, *followers])


def test_caller_after_the_end_does_the_work_again(flights: Flights) -> None:
    assert flights.run("key", lambda: 1) == 1
    assert flights.run("key", lambda: 2) == 2


def test_calls_for_other_keys_run_in_parallel(
    flights: Flights, threads: ThreadPoolExecutor
) -> None:
    together = threading.Barrier(5, timeout=LONG)

    def run(number: int) -> object:
        return flights.run(f"key {number}", lambda: (together.wait(), number)[1])

    assert list(threads.map(run, range(5))) == [0, 1, 2, 3, 4]


def test_followers_do_the_work_themselves_if_the_leader_fails(
    flights: Flights, joined: threading.Semaphore, threads: ThreadPoolExecutor
) -> None:
    def fail_when_all_wait() -> object:
        wait_for(joined, 3)
        raise KeyError("of the leader")

    def fail() -> object:
        raise KeyError("of a follower")

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


def test_follower_gives_up_at_its_deadline_while_the_work_goes_on(
    flights: Flights, threads: ThreadPoolExecutor
) -> None:
    go_on = threading.Event()
    leader = lead(flights, threads, lambda: go_on.wait(LONG))
    with deadline.within(0), pytest.raises(DeadlineExceeded, match="took too long"):
        flights.run("key", never)
    go_on.set()
    assert leader.result(LONG) is True


def test_deadline_of_the_leader_is_left_to_its_work(flights: Flights) -> None:
    with deadline.within(0):
        assert flights.run("key", lambda: "value") == "value"
