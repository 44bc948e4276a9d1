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

    def __init__(self, breaker: CircuitBreaker, *, blaming: bool = True) -> None:
        self._calling = breaker.calling(blaming=blaming)
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
    return breaker


@pytest.fixture
def half_open(opened: CircuitBreaker, clock: Clock) -> CircuitBreaker:
    clock.now += OPEN_SECONDS
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
    def test_opens_after_so_many_failures_in_a_row(
        self, breaker: CircuitBreaker, caplog: pytest.LogCaptureFixture
    ) -> None:
        late = Call(breaker)
        assert state_of(breaker) is State.CLOSED
        fail(breaker, THRESHOLD - 1)
        breaker.refuse_if_open()
        assert state_of(breaker) is State.CLOSED
        Call(breaker).end(ConnectionResetError())  # a derived kind
        assert state_of(breaker) is State.OPEN
        late.end(ConnectionError())
        assert caplog.messages == ["circuit breaker of the server opens"]

    @pytest.mark.parametrize("answer", [None, KeyError()], ids=repr)
    def test_answer_ends_the_row(self, breaker: CircuitBreaker, answer: Exception | None) -> None:
        fail(breaker, THRESHOLD - 1)
        Call(breaker).end(answer)
        fail(breaker, THRESHOLD - 1)
        assert state_of(breaker) is State.CLOSED

    def test_failure_that_is_not_blamed_neither_opens_it_nor_ends_the_row(
        self, breaker: CircuitBreaker
    ) -> None:
        for _ in range(9):
            with pytest.raises(ConnectionError), breaker.calling(blaming=False):
                raise ConnectionError
        fail(breaker, THRESHOLD - 1)
        with pytest.raises(ConnectionError), breaker.calling(blaming=False):
            raise ConnectionError
        assert state_of(breaker) is State.CLOSED
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


class TestOpen:
    def test_refuses_calls_and_tells_when_to_try_again(
        self, opened: CircuitBreaker, clock: Clock
    ) -> None:
        clock.now += 4
        for ask in (opened.refuse_if_open, lambda: succeed(opened)):
            with pytest.raises(CircuitOpen, match="the server did not answer lately") as raised:
                ask()
            assert raised.value.retry_after == OPEN_SECONDS - 4

    def test_lasts_for_its_time_whatever_is_refused_or_ends_meanwhile(
        self, breaker: CircuitBreaker, clock: Clock
    ) -> None:
        late = [Call(breaker) for _ in range(THRESHOLD)]
        fail(breaker, THRESHOLD)
        clock.now += OPEN_SECONDS - 0.001
        for each in late:
            each.end(ConnectionError())
            with refused():
                succeed(breaker)
        assert state_of(breaker) is State.OPEN
        clock.now += 0.001
        assert state_of(breaker) is State.HALF_OPEN


class TestHalfOpen:
    def test_admits_one_call_at_a_time(self, half_open: CircuitBreaker) -> None:
        half_open.refuse_if_open()
        trial = Call(half_open)
        for _ in range(3):
            with refused():
                half_open.refuse_if_open()
            with refused():
                succeed(half_open)
        assert state_of(half_open) is State.HALF_OPEN
        trial.end()
        succeed(half_open)

    def test_of_many_threads_at_once_one_gets_through(
        self, half_open: CircuitBreaker, clock: Clock
    ) -> None:
        number = 20
        for _ in range(25):
            together = threading.Barrier(number, timeout=LONG)
            with ThreadPoolExecutor(number) as threads:
                begun = list(threads.map(begin_together, [(half_open, together)] * number))
            (trial,) = filter(None, begun)
            trial.end(ConnectionError())
            clock.now += OPEN_SECONDS

    @pytest.mark.parametrize("answer", [None, KeyError()], ids=repr)
    def test_closes_when_that_call_is_answered(
        self,
        half_open: CircuitBreaker,
        caplog: pytest.LogCaptureFixture,
        answer: Exception | None,
    ) -> None:
        with caplog.at_level(logging.INFO, "user_service"):
            Call(half_open).end(answer)
        assert state_of(half_open) is State.CLOSED
        assert caplog.messages == ["circuit breaker of the server closes"]
        fail(half_open, THRESHOLD - 1)
        assert state_of(half_open) is State.CLOSED

    @pytest.mark.parametrize("blaming", [True, False])
    def test_opens_for_its_whole_time_when_that_call_fails(
        self, half_open: CircuitBreaker, clock: Clock, blaming: bool
    ) -> None:
        for _ in range(3):
            trial = Call(half_open, blaming=blaming)
            clock.now += 5  # from when it failed, not from when it began
            trial.end(ConnectionError())
            clock.now += OPEN_SECONDS - 0.001
            assert state_of(half_open) is State.OPEN
            clock.now += 0.001
            assert state_of(half_open) is State.HALF_OPEN

    @pytest.mark.parametrize("error", [None, KeyError(), ConnectionError()], ids=repr)
    def test_end_of_a_call_begun_before_neither_changes_it_nor_makes_room(
        self, breaker: CircuitBreaker, clock: Clock, error: Exception | None
    ) -> None:
        late = [Call(breaker) for _ in range(2 + THRESHOLD)]
        fail(breaker, THRESHOLD)
        clock.now += OPEN_SECONDS
        late.pop().end(error)
        assert state_of(breaker) is State.HALF_OPEN
        trial = Call(breaker)
        late.pop().end(error)
        with refused():
            succeed(breaker)
        trial.end()
        for each in late:
            each.end(error)
        assert state_of(breaker) is State.CLOSED


def test_defaults_are_five_failures_and_one_second(clock: Clock) -> None:
    breaker = CircuitBreaker("it", failures=(ConnectionError,), clock=clock)
    fail(breaker, 4)
    assert state_of(breaker) is State.CLOSED
    fail(breaker)
    assert state_of(breaker) is State.OPEN
    clock.now += 1
    assert state_of(breaker) is State.HALF_OPEN


@pytest.mark.parametrize(
    "end", [Unavailable("being prepared"), KeyboardInterrupt(), SystemExit(), GeneratorExit()]
)
def test_inconclusive_end_changes_nothing(
    breaker: CircuitBreaker, clock: Clock, end: BaseException
) -> None:
    fail(breaker, THRESHOLD - 1)
    Call(breaker).end(end)
    fail(breaker)
    assert state_of(breaker) is State.OPEN  # the row was not interrupted
    clock.now += OPEN_SECONDS
    Call(breaker).end(end)
    assert state_of(breaker) is State.HALF_OPEN
    succeed(breaker)  # the next call tries
    assert state_of(breaker) is State.CLOSED
