"""The circuit breaker: when it opens, which calls it admits, and which ends of calls count."""

import pytest

from tests.unit.conftest import Clock
from user_service.errors import CircuitOpen, Unavailable
from user_service.resilience.breaker import CircuitBreaker, State

THRESHOLD = 5  # the default
OPEN_SECONDS = 1.0  # the default
ANSWERS = pytest.mark.parametrize("answer", [None, KeyError()], ids=repr)


class Call:
    """A call that ends when a test says so."""

    def __init__(self, breaker: CircuitBreaker, *, blaming: bool = True) -> None:
        self._calling = breaker.calling(blaming=blaming)
        self._calling.__enter__()

    def end(self, error: BaseException | None = None) -> None:
        assert not self._calling.__exit__(None if error is None else type(error), error, None)


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker("the server", failures=(ConnectionError,), clock=clock)


@pytest.fixture
def half_open(breaker: CircuitBreaker, clock: Clock) -> CircuitBreaker:
    fail(breaker, THRESHOLD)
    clock.now += OPEN_SECONDS
    return breaker


def state_of(breaker: CircuitBreaker) -> State:
    """Return its state; a function, since mypy takes a property for constant."""
    return breaker.state


def succeed(breaker: CircuitBreaker) -> None:
    Call(breaker).end()


def fail(breaker: CircuitBreaker, times: int = 1, *, blaming: bool = True) -> None:
    for _ in range(times):
        with pytest.raises(ConnectionError), breaker.calling(blaming=blaming):
            raise ConnectionError


def refused() -> pytest.RaisesExc[CircuitOpen]:
    return pytest.raises(CircuitOpen, match="the server did not answer lately")


class TestClosed:
    def test_opens_after_so_many_failures_in_a_row(
        self, breaker: CircuitBreaker, caplog: pytest.LogCaptureFixture
    ) -> None:
        late = Call(breaker)
        fail(breaker, THRESHOLD - 1)
        breaker.refuse_if_open()
        assert state_of(breaker) is State.CLOSED
        Call(breaker).end(ConnectionResetError())  # a derived kind
        assert state_of(breaker) is State.OPEN
        late.end(ConnectionError())
        assert caplog.messages == ["circuit breaker of the server opens"]

    @ANSWERS
    def test_answer_ends_the_row(self, breaker: CircuitBreaker, answer: Exception | None) -> None:
        fail(breaker, THRESHOLD - 1)
        Call(breaker).end(answer)
        fail(breaker, THRESHOLD - 1)
        assert state_of(breaker) is State.CLOSED

    def test_failure_without_blame_counts_for_nothing(self, breaker: CircuitBreaker) -> None:
        fail(breaker, 9, blaming=False)
        fail(breaker, THRESHOLD - 1)
        fail(breaker, blaming=False)
        assert state_of(breaker) is State.CLOSED
        fail(breaker)
        assert state_of(breaker) is State.OPEN


def test_open_one_refuses_calls_for_its_time_whatever_ends_meanwhile(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    late = [Call(breaker) for _ in range(THRESHOLD)]
    fail(breaker, THRESHOLD)
    clock.now += OPEN_SECONDS - 0.125
    for each in late:
        each.end(ConnectionError())
        for ask in (breaker.refuse_if_open, lambda: succeed(breaker)):
            with refused() as raised:
                ask()
            assert raised.value.retry_after == 0.125
    assert state_of(breaker) is State.OPEN
    clock.now += 0.125
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

    @ANSWERS
    def test_closes_when_that_call_is_answered(
        self, half_open: CircuitBreaker, caplog: pytest.LogCaptureFixture, answer: Exception | None
    ) -> None:
        with caplog.at_level("INFO", "user_service"):
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
            clock.now += OPEN_SECONDS - 0.125
            assert state_of(half_open) is State.OPEN
            clock.now += 0.125
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
