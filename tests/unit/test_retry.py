"""Retries: which failures are tried again, how often, after which pauses, and when no more."""

from contextlib import suppress
from typing import Any
from unittest.mock import Mock

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
from user_service.resilience.retry import Outcome, RetryPolicy


def work_after(*failures: Exception) -> Mock:
    """Return work that fails with each of ``failures`` in turn, and then succeeds."""
    return Mock(side_effect=[*failures, "done"])


class Recorder:
    """Makes policies whose pauses take no time, and are half of the longest, not random."""

    def __init__(self) -> None:
        self.pauses: list[float] = []
        self.outcomes: list[Outcome] = []

    def policy(self, **settings: Any) -> RetryPolicy:
        return RetryPolicy(
            **settings,
            sleep=self.pauses.append,
            uniform=lambda low, high: (low + high) / 2,
            on_end=self.outcomes.append,
        )


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def transient(number: int) -> list[TransientFailure]:
    return [TransientFailure(f"failure {n}") for n in range(1, number + 1)]


def test_success_is_returned_at_once_with_the_arguments_passed_on(recorder: Recorder) -> None:
    work = work_after()
    assert recorder.policy().call(work, 1, key=2) == "done"
    work.assert_called_once_with(1, key=2)
    assert (recorder.pauses, recorder.outcomes) == ([], [])


def test_pauses_double_and_each_retry_is_logged_with_its_cause(
    recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("WARNING", "user_service"), deadline.within(600):
        recorder.policy(retries=4).call(work_after(*transient(4)))
    assert recorder.pauses == [0.25, 0.5, 1, 2]  # halves, since the shortest is zero
    assert caplog.messages[0] == "retry 1 of 4 in 0.250 s after: failure 1"
    assert len(caplog.messages) == 4


@pytest.mark.parametrize("retries", [0, 2])
def test_last_failure_is_raised_when_retries_are_used_up(recorder: Recorder, retries: int) -> None:
    failures = transient(retries + 1)
    work = work_after(*failures)
    with pytest.raises(TransientFailure) as raised:
        recorder.policy(retries=retries).call(work)
    assert raised.value is failures[-1]
    assert (work.call_count, len(recorder.pauses)) == (retries + 1, retries)


@pytest.mark.parametrize(
    "failure",
    [
        *(Unavailable("cancelled"), PoolTimeout("full"), DeadlineExceeded("too late")),
        *(CircuitOpen("refused", 1), OutcomeUnknown("lost during COMMIT"), UserExists("email")),
        ValueError("a bug"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("earlier", [0, 1])
def test_only_transient_failures_are_retried(
    recorder: Recorder, failure: Exception, earlier: int
) -> None:
    work = work_after(*transient(earlier), failure)
    with pytest.raises(type(failure)) as raised:
        recorder.policy().call(work)
    assert raised.value is failure
    assert (work.call_count, len(recorder.outcomes)) == (earlier + 1, earlier)


@pytest.mark.parametrize("delay", [0, 1])
def test_does_not_begin_a_pause_that_would_outlast_the_deadline(
    recorder: Recorder, delay: float
) -> None:
    work = work_after(*transient(1))
    policy = recorder.policy(delay=delay, reserve=1)
    with pytest.raises(TransientFailure, match="failure 1"), deadline.within(0):
        policy.call(work)
    assert (work.call_count, recorder.pauses, recorder.outcomes) == (1, [], [Outcome.NO_TIME])
    assert policy.balance == 1  # it was not spent


@pytest.mark.parametrize(
    ("results", "outcome"),
    [
        ([], Outcome.RECOVERED),
        (transient(1), Outcome.RECOVERED),
        ([UserExists("email")], Outcome.RECOVERED),
        ([Unavailable("other")], Outcome.FAILED),
        (transient(2), Outcome.FAILED),
    ],
)
def test_outcome_of_a_retried_call_is_reported_once(
    recorder: Recorder, results: list[Exception], outcome: Outcome
) -> None:
    work = work_after(TransientFailure("first"), *results)
    with suppress(Unavailable, UserExists):
        recorder.policy().call(work)
    assert work.call_count > len(results)
    assert recorder.outcomes == [outcome]


class TestBudget:
    def test_each_call_pays_in_and_each_retry_takes_out(self, recorder: Recorder) -> None:
        policy = recorder.policy(share=0.5, reserve=4)
        policy.call(work_after(*transient(2)))
        assert policy.balance == 2
        for _ in range(2):
            policy.call(work_after())
        assert policy.balance == 3

    def test_failure_is_raised_when_the_budget_is_used_up(
        self, recorder: Recorder, caplog: pytest.LogCaptureFixture
    ) -> None:
        work = work_after(*transient(3))
        with pytest.raises(TransientFailure, match="failure 2"):
            recorder.policy(share=0, reserve=1).call(work)
        assert len(recorder.pauses) == 1
        assert recorder.outcomes == [Outcome.NO_BUDGET]
        assert "retry budget is used up" in caplog.messages[-1]

    def test_keeps_an_outage_to_a_tenth_more_calls(self, recorder: Recorder) -> None:
        works = [work_after(*transient(9)) for _ in range(1000)]
        policy = recorder.policy()
        for work in works:
            with pytest.raises(TransientFailure):
                policy.call(work)
        assert sum(work.call_count for work in works) == pytest.approx(1000 + 100 + 10, abs=2)
