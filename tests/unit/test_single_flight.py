"""Single flight: one works, the others wait for it, each for as long as it may."""

import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from user_service.cache.single_flight import SingleFlight
from user_service.errors import DeadlineExceeded
from user_service.resilience import deadline

LONG = 30.0  # seconds: nobody who does as they should waits for so long


@pytest.fixture
def flights() -> SingleFlight[str, object]:
    return SingleFlight()


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> threading.Semaphore:
    """Released by everybody who has found a flight under way, before they wait for it."""
    joined = threading.Semaphore(0)

    def remaining() -> float:
        joined.release()
        return math.inf

    monkeypatch.setattr("user_service.cache.single_flight.deadline.remaining", remaining)
    return joined


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(20) as threads:
        yield threads


def wait_for(semaphore: threading.Semaphore, times: int) -> None:
    for _ in range(times):
        assert semaphore.acquire(timeout=LONG)


def never() -> object:
    pytest.fail("worked although somebody else does")


def led(
    flights: SingleFlight[str, object], threads: ThreadPoolExecutor, end: Callable[[], object]
) -> Future[object]:
    """Begin a flight that is under way when this returns, and ends as ``end`` does."""
    begun = threading.Event()

    def work() -> object:
        begun.set()
        return end()

    leader = threads.submit(flights.run, "key", work)
    assert begun.wait(LONG)
    return leader


def test_returns_what_the_work_returns(flights: SingleFlight[str, object]) -> None:
    assert flights.run("key", lambda: "value") == "value"


def test_of_many_callers_at_once_one_works(
    flights: SingleFlight[str, object], joined: threading.Semaphore, threads: ThreadPoolExecutor
) -> None:
    value = object()

    def when_all_wait() -> object:
        wait_for(joined, 19)
        return value

    leader = led(flights, threads, when_all_wait)
    others = [threads.submit(flights.run, "key", never) for _ in range(19)]
    assert all(each.result(LONG) is value for each in [leader, *others])


def test_who_comes_after_the_end_works_again(flights: SingleFlight[str, object]) -> None:
    assert flights.run("key", lambda: 1) == 1
    assert flights.run("key", lambda: 2) == 2


def test_other_keys_are_other_flights(
    flights: SingleFlight[str, object], threads: ThreadPoolExecutor
) -> None:
    together = threading.Barrier(5, timeout=LONG)

    def run(number: int) -> object:
        return flights.run(f"key {number}", lambda: (together.wait(), number)[1])

    assert list(threads.map(run, range(5))) == [0, 1, 2, 3, 4]


def test_failure_is_raised_for_everybody_and_forgotten(
    flights: SingleFlight[str, object], joined: threading.Semaphore, threads: ThreadPoolExecutor
) -> None:
    def fail_when_all_wait() -> object:
        wait_for(joined, 3)
        raise KeyError("it")

    leader = led(flights, threads, fail_when_all_wait)
    others = [threads.submit(flights.run, "key", never) for _ in range(3)]
    for each in [leader, *others]:
        with pytest.raises(KeyError, match="it"):
            each.result(LONG)
    assert flights.run("key", lambda: "well") == "well"


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt, SystemExit])
def test_nothing_is_kept_of_a_flight_that_is_over(
    flights: SingleFlight[str, object], error: type[BaseException]
) -> None:
    def fail() -> object:
        raise error

    flights.run("key", lambda: "value")
    with pytest.raises(error):
        flights.run("key", fail)
    assert flights._flights == {}


def test_who_waits_gives_up_at_its_deadline_and_the_work_goes_on(
    flights: SingleFlight[str, object], threads: ThreadPoolExecutor
) -> None:
    go_on = threading.Event()
    leader = led(flights, threads, lambda: go_on.wait(LONG))
    with deadline.within(0), pytest.raises(DeadlineExceeded, match="takes too long"):
        flights.run("key", never)
    go_on.set()
    assert leader.result(LONG) is True


def test_deadline_of_who_works_is_not_looked_at(flights: SingleFlight[str, object]) -> None:
    with deadline.within(0):
        assert flights.run("key", lambda: "value") == "value"
