"""The circuit breaker: when it opens, which calls it admits, and which ends of calls count."""

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from user_service.errors import CircuitOpen, Unavailable
from user_service.resilience.breaker import CircuitBreaker, State

LONG = 30.0  # seconds
THRESHOLD = 3
OPEN_SECONDS = 10.0


class Clock:
    """Stands still until a test moves it on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Call:
    """A call that ends when a test says so."""

    def __init__(self, breaker: CircuitBreaker) -> None:
        self._calling = breaker.calling()
        self._calling.__enter__()

    def end(self, error: BaseException | None = None) -> None:
        assert not self._calling.__exit__(None if error is None else type(error), error, None)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker(
        "the server",
        failures=(ConnectionError,),
        threshold=THRESHOLD,
        open_seconds=OPEN_SECONDS,
        clock=clock,
    )


@pytest.fixture
def opened(breaker: CircuitBreaker) -> CircuitBreaker:
    """The breaker, opened at this moment."""
    fail(breaker, THRESHOLD)
    assert state_of(breaker) is State.OPEN
    return breaker


@pytest.fixture
def half_open(opened: CircuitBreaker, clock: Clock) -> CircuitBreaker:
    clock.now += OPEN_SECONDS
    assert state_of(opened) is State.HALF_OPEN
    return opened


def state_of(breaker: CircuitBreaker) -> State:
    """Return its state; a function, since mypy takes a property for constant."""
    return breaker.state


def succeed(breaker: CircuitBreaker) -> None:
    Call(breaker).end()


def fail(breaker: CircuitBreaker, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(ConnectionError), breaker.calling():
            raise ConnectionError


def begin_together(what: tuple[CircuitBreaker, threading.Barrier]) -> Call | None:
    """Begin a call at the same moment as the others; return None if it is refused."""
    breaker, together = what
    together.wait()
    try:
        return Call(breaker)
    except CircuitOpen:
        return None


@contextmanager
def refused() -> Iterator[None]:
    with pytest.raises(CircuitOpen, match="the server did not answer lately"):
        yield


class TestClosed:
    def test_is_how_it_begins(self, breaker: CircuitBreaker) -> None:
        assert state_of(breaker) is State.CLOSED
        breaker.refuse_if_open()
        succeed(breaker)

    def test_opens_after_so_many_failures_in_a_row(self, breaker: CircuitBreaker) -> None:
        fail(breaker, THRESHOLD - 1)
        assert state_of(breaker) is State.CLOSED
        fail(breaker)
        assert state_of(breaker) is State.OPEN

    def test_success_begins_the_row_anew(self, breaker: CircuitBreaker) -> None:
        fail(breaker, THRESHOLD - 1)
        succeed(breaker)
        fail(breaker, THRESHOLD - 1)
        assert state_of(breaker) is State.CLOSED

    def test_failure_of_another_kind_is_an_answer(self, breaker: CircuitBreaker) -> None:
        fail(breaker, THRESHOLD - 1)
        with pytest.raises(KeyError), breaker.calling():
            raise KeyError
        fail(breaker, THRESHOLD - 1)
        assert state_of(breaker) is State.CLOSED

    def test_failure_of_a_derived_kind_counts(self, breaker: CircuitBreaker) -> None:
        for _ in range(THRESHOLD):
            with pytest.raises(ConnectionResetError), breaker.calling():
                raise ConnectionResetError
        assert state_of(breaker) is State.OPEN

    def test_failure_that_is_not_blamed_neither_opens_it_nor_ends_the_row(
        self, breaker: CircuitBreaker
    ) -> None:
        for _ in range(9):
            with pytest.raises(ConnectionError), breaker.calling(blaming=False):
                raise ConnectionError
        assert state_of(breaker) is State.CLOSED
        fail(breaker, 2)
        with pytest.raises(ConnectionError), breaker.calling(blaming=False):
            raise ConnectionError
        fail(breaker)
        assert state_of(breaker) is State.OPEN

    def test_calls_are_parallel(self, breaker: CircuitBreaker) -> None:
        together = threading.Barrier(8, timeout=LONG)

        def call(_: int) -> None:
            with breaker.calling():
                together.wait()

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(call, range(8)))

    def test_failures_in_many_threads_are_all_counted(self, clock: Clock) -> None:
        breaker = CircuitBreaker("it", failures=(ConnectionError,), threshold=801, clock=clock)
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda _: fail(breaker, 100), range(8)))
        assert state_of(breaker) is State.CLOSED
        fail(breaker)
        assert state_of(breaker) is State.OPEN

    def test_opening_is_logged_once(
        self, breaker: CircuitBreaker, caplog: pytest.LogCaptureFixture
    ) -> None:
        late = Call(breaker)
        fail(breaker, THRESHOLD)
        late.end(ConnectionError())
        assert caplog.messages == ["circuit breaker of the server opens"]


class TestOpen:
    def test_does_not_begin_a_call(self, opened: CircuitBreaker) -> None:
        with refused(), opened.calling():
            pytest.fail("called in spite of an open breaker")

    def test_refuses_before_a_call_too(self, opened: CircuitBreaker) -> None:
        with refused():
            opened.refuse_if_open()

    def test_tells_when_to_try_again(self, opened: CircuitBreaker, clock: Clock) -> None:
        clock.now += 4
        for ask in (opened.refuse_if_open, lambda: succeed(opened)):
            with pytest.raises(CircuitOpen) as raised:
                ask()
            assert raised.value.retry_after == OPEN_SECONDS - 4

    def test_lasts_for_its_time(self, opened: CircuitBreaker, clock: Clock) -> None:
        clock.now += OPEN_SECONDS - 0.001
        assert state_of(opened) is State.OPEN
        clock.now += 0.001
        assert state_of(opened) is State.HALF_OPEN

    def test_refused_calls_do_not_prolong_it(self, opened: CircuitBreaker, clock: Clock) -> None:
        clock.now += OPEN_SECONDS - 1
        with refused():
            succeed(opened)
        clock.now += 1
        succeed(opened)

    def test_failure_of_a_call_begun_before_does_not_prolong_it(
        self, breaker: CircuitBreaker, clock: Clock
    ) -> None:
        late = [Call(breaker) for _ in range(THRESHOLD)]
        fail(breaker, THRESHOLD)
        clock.now += OPEN_SECONDS - 1
        for each in late:
            each.end(ConnectionError())
        clock.now += 1
        assert state_of(breaker) is State.HALF_OPEN


class TestHalfOpen:
    def test_admits_one_call_at_a_time(self, half_open: CircuitBreaker) -> None:
        half_open.refuse_if_open()
        probe = Call(half_open)
        for _ in range(3):
            with refused():
                half_open.refuse_if_open()
            with refused():
                succeed(half_open)
        assert state_of(half_open) is State.HALF_OPEN
        probe.end()
        succeed(half_open)

    def test_of_many_threads_at_once_one_gets_through(
        self, half_open: CircuitBreaker, clock: Clock
    ) -> None:
        number = 20
        for _ in range(25):
            together = threading.Barrier(number, timeout=LONG)
            with ThreadPoolExecutor(number) as threads:
                begun = list(threads.map(begin_together, [(half_open, together)] * number))
            (probe,) = filter(None, begun)
            probe.end(ConnectionError())
            clock.now += OPEN_SECONDS

    def test_closes_when_that_call_succeeds(
        self, half_open: CircuitBreaker, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.INFO, "user_service"):
            succeed(half_open)
        assert state_of(half_open) is State.CLOSED
        assert caplog.messages == ["circuit breaker of the server closes"]
        fail(half_open, THRESHOLD - 1)
        assert state_of(half_open) is State.CLOSED

    def test_closes_when_that_call_is_answered_with_an_error(
        self, half_open: CircuitBreaker
    ) -> None:
        with pytest.raises(KeyError), half_open.calling():
            raise KeyError
        assert state_of(half_open) is State.CLOSED

    def test_opens_for_its_whole_time_when_that_call_fails(
        self, half_open: CircuitBreaker, clock: Clock
    ) -> None:
        for _ in range(3):
            clock.now += 100
            probe = Call(half_open)
            clock.now += 5  # from when it failed, not from when it began
            probe.end(ConnectionError())
            assert state_of(half_open) is State.OPEN
            clock.now += OPEN_SECONDS - 0.001
            assert state_of(half_open) is State.OPEN
            clock.now += 0.001
            assert state_of(half_open) is State.HALF_OPEN

    @pytest.mark.parametrize("error", [None, KeyError(), ConnectionError()], ids=repr)
    def test_end_of_a_call_begun_before_neither_changes_it_nor_makes_room(
        self, breaker: CircuitBreaker, clock: Clock, error: Exception | None
    ) -> None:
        late, later = Call(breaker), Call(breaker)
        fail(breaker, THRESHOLD)
        clock.now += OPEN_SECONDS
        late.end(error)
        assert state_of(breaker) is State.HALF_OPEN
        probe = Call(breaker)
        later.end(error)
        with refused():
            succeed(breaker)
        probe.end()
        assert state_of(breaker) is State.CLOSED


def test_defaults_are_five_failures_and_one_second(clock: Clock) -> None:
    breaker = CircuitBreaker("it", failures=(ConnectionError,), clock=clock)
    fail(breaker, 4)
    assert state_of(breaker) is State.CLOSED
    fail(breaker)
    assert state_of(breaker) is State.OPEN
    clock.now += 1
    assert state_of(breaker) is State.HALF_OPEN


class TestInconclusiveEnd:
    """Ends of calls that tell nothing about the dependency as it is now."""

    @pytest.mark.parametrize(
        "end", [Unavailable("being prepared"), KeyboardInterrupt(), SystemExit(), GeneratorExit()]
    )
    def test_of_the_call_that_tries_leaves_the_next_call_to_try(
        self, half_open: CircuitBreaker, end: BaseException
    ) -> None:
        Call(half_open).end(end)
        assert state_of(half_open) is State.HALF_OPEN
        succeed(half_open)
        assert state_of(half_open) is State.CLOSED

    def test_does_not_interrupt_a_row_of_failures(self, breaker: CircuitBreaker) -> None:
        fail(breaker, THRESHOLD - 1)
        Call(breaker).end(Unavailable("being prepared"))
        fail(breaker)
        assert state_of(breaker) is State.OPEN

    def test_failure_of_a_call_from_before_it_opened_does_not_open_it_again(
        self, breaker: CircuitBreaker, clock: Clock
    ) -> None:
        late = [Call(breaker) for _ in range(THRESHOLD)]
        fail(breaker, THRESHOLD)
        clock.now += OPEN_SECONDS
        succeed(breaker)
        for call in late:
            call.end(ConnectionError())
        assert state_of(breaker) is State.CLOSED
