"""Retries: which failures are tried again, how often, after which pauses, and when no more."""

import logging
from collections.abc import Iterator

import pytest

from user_service.errors import (
    CircuitOpen,
    DeadlineExceeded,
    OutcomeUnknown,
    PoolTimeout,
    TransientFailure,
    Unavailable,
    UserExists,
)
from user_service.resilience import deadline
from user_service.resilience.retry import Outcome, RetryBudget, RetryPolicy


class Work:
    """Fails with each of ``failures`` in turn, then returns its arguments."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.calls = 0

    def __call__(self, *args: object, **kwargs: object) -> object:
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)
        return args, kwargs


class Recorder:
    """Makes policies whose pauses take no time and are the longest that they may be."""

    def __init__(self) -> None:
        self.pauses: list[float] = []
        self.outcomes: list[Outcome] = []

    def policy(
        self, retries: int = 2, delay: float = 0.5, budget: RetryBudget | None = None
    ) -> RetryPolicy:
        return RetryPolicy(
            retries,
            delay,
            budget or RetryBudget(),
            sleep=self.pauses.append,
            uniform=lambda _low, high: high,
            on_end=self.outcomes.append,
        )


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    yield Recorder()
    deadline.clear()


def transient(number: int) -> list[TransientFailure]:
    return [TransientFailure(f"failure {n}") for n in range(1, number + 1)]


def test_success_is_returned_at_once_with_the_arguments_passed_on(recorder: Recorder) -> None:
    work = Work()
    assert recorder.policy().call(work, 1, key=2) == ((1,), {"key": 2})
    assert (work.calls, recorder.pauses, recorder.outcomes) == (1, [], [])


def test_two_transient_failures_are_survived_by_default() -> None:
    policy = RetryPolicy(sleep=lambda _: None)
    work = Work(*transient(2))
    assert policy.call(work) == ((), {})
    assert work.calls == 3
    assert policy.delay == 0.5


def test_pauses_double(recorder: Recorder) -> None:
    recorder.policy(retries=4).call(Work(*transient(4)))
    assert recorder.pauses == [0.5, 1, 2, 4]


def test_pause_is_random_from_zero() -> None:
    bounds: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        bounds.append((low, high))
        return 0.125

    pauses: list[float] = []
    RetryPolicy(sleep=pauses.append, uniform=uniform).call(Work(*transient(2)))
    assert bounds == [(0, 0.5), (0, 1.0)]
    assert pauses == [0.125, 0.125]


@pytest.mark.parametrize("retries", [0, 2])
def test_last_failure_is_raised_when_the_retries_are_used_up(
    recorder: Recorder, retries: int
) -> None:
    failures = transient(retries + 1)
    work = Work(*failures)
    with pytest.raises(TransientFailure) as raised:
        recorder.policy(retries).call(work)
    assert raised.value is failures[-1]
    assert (work.calls, len(recorder.pauses)) == (retries + 1, retries)


@pytest.mark.parametrize(
    "failure",
    [
        Unavailable("statement cancelled"),
        PoolTimeout("pool is full"),
        DeadlineExceeded("too late"),
        CircuitOpen("refused", 1),
        OutcomeUnknown("lost during COMMIT"),
        UserExists("email"),
        ValueError("a bug"),
    ],
    ids=lambda failure: type(failure).__name__,
)
@pytest.mark.parametrize("earlier", [0, 1])
def test_only_transient_failures_are_retried(
    recorder: Recorder, failure: Exception, earlier: int
) -> None:
    work = Work(*transient(earlier), failure)
    with pytest.raises(type(failure)) as raised:
        recorder.policy().call(work)
    assert raised.value is failure
    assert work.calls == earlier + 1


@pytest.mark.parametrize("delay", [0, 1])
def test_does_not_begin_a_pause_that_would_outlast_the_deadline(
    recorder: Recorder, delay: float
) -> None:
    work = Work(*transient(1))
    deadline.start(0)
    with pytest.raises(TransientFailure, match="failure 1"):
        recorder.policy(delay=delay).call(work)
    assert (work.calls, recorder.pauses, recorder.outcomes) == (1, [], [Outcome.NO_TIME])


def test_pauses_within_the_deadline_are_made(recorder: Recorder) -> None:
    deadline.start(600)
    assert recorder.policy(delay=1).call(Work(*transient(2))) == ((), {})
    assert recorder.pauses == [1, 2]


@pytest.mark.parametrize(
    ("results", "outcome"),
    [
        ([], Outcome.RECOVERED),
        ([*transient(1)], Outcome.RECOVERED),
        ([UserExists("email")], Outcome.RECOVERED),
        ([Unavailable("other")], Outcome.FAILED),
        ([*transient(2)], Outcome.FAILED),
    ],
)
def test_outcome_of_a_retried_call_is_reported_once(
    recorder: Recorder, results: list[Exception], outcome: Outcome
) -> None:
    work = Work(TransientFailure("first"), *results)
    try:
        recorder.policy().call(work)
    except (Unavailable, UserExists):
        assert work.failures == []
    assert recorder.outcomes == [outcome]


@pytest.mark.parametrize("error", [UserExists("email"), Unavailable("x")])
def test_call_without_a_transient_failure_has_no_outcome(
    recorder: Recorder, error: Exception
) -> None:
    with pytest.raises(type(error)):
        recorder.policy().call(Work(error))
    assert recorder.outcomes == []


def test_every_retry_is_logged_with_its_cause(
    recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "user_service"):
        recorder.policy().call(Work(*transient(1)))
    assert caplog.messages == ["retry 1 of 2 in 0.500 s after: failure 1"]


class TestBudget:
    def test_holds_its_reserve_and_no_more(self) -> None:
        budget = RetryBudget(share=0.5, reserve=3)
        for _ in range(100):
            budget.pay_in()
        assert [budget.take_out() for _ in range(5)] == [True, True, True, False, False]

    def test_grows_by_its_share_of_the_calls(self) -> None:
        budget = RetryBudget(share=0.25, reserve=2)
        while budget.take_out():
            pass
        taken = []
        for _ in range(12):
            budget.pay_in()
            taken.append(budget.take_out())
        assert taken == [False, False, False, True] * 3

    def test_each_call_pays_in_and_each_retry_takes_out(self, recorder: Recorder) -> None:
        budget = RetryBudget(share=0.5, reserve=4)
        policy = recorder.policy(budget=budget)
        policy.call(Work(*transient(2)))
        assert [budget.take_out() for _ in range(3)] == [True, True, False]
        for _ in range(2):
            policy.call(Work())
        assert [budget.take_out() for _ in range(2)] == [True, False]

    def test_failure_is_raised_when_the_budget_is_used_up(
        self, recorder: Recorder, caplog: pytest.LogCaptureFixture
    ) -> None:
        failures = transient(3)
        work = Work(*failures)
        with pytest.raises(TransientFailure) as raised:
            recorder.policy(budget=RetryBudget(share=0, reserve=1)).call(work)
        assert raised.value is failures[1]
        assert (work.calls, len(recorder.pauses)) == (2, 1)
        assert recorder.outcomes == [Outcome.NO_BUDGET]
        assert "retry budget is used up" in caplog.messages[-1]

    def test_is_not_spent_on_a_pause_that_the_deadline_forbids(self, recorder: Recorder) -> None:
        budget = RetryBudget(share=0, reserve=1)
        deadline.start(0)
        with pytest.raises(TransientFailure):
            recorder.policy(budget=budget).call(Work(*transient(1)))
        assert budget.take_out()

    def test_keeps_an_outage_to_a_tenth_more_calls(self, recorder: Recorder) -> None:
        policy = recorder.policy()
        attempts = 0
        for _ in range(1000):
            work = Work(*transient(9))
            with pytest.raises(TransientFailure):
                policy.call(work)
            attempts += work.calls
        assert attempts == pytest.approx(1000 + 100 + 10, abs=2)

    def test_is_another_for_every_policy(self) -> None:
        assert RetryPolicy().budget is not RetryPolicy().budget
