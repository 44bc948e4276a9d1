"""Retry: what is tried again, how often, after which pauses, and when not any more."""

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
from user_service.resilience.retry import (
    RetryBudget,
    RetryPolicy,
    policy_in_effect,
    retry_on_failure,
)


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


@pytest.fixture
def pauses() -> Iterator[list[float]]:
    """The pauses that the policy in effect made, each the longest that it may be."""
    made: list[float] = []
    policy = RetryPolicy(sleep=made.append, uniform=lambda _low, high: high)
    token = policy_in_effect.set(policy)
    yield made
    policy_in_effect.reset(token)
    deadline.clear()


def transient(number: int) -> list[TransientFailure]:
    return [TransientFailure(f"failure {n}") for n in range(1, number + 1)]


def named_work() -> object:
    """Do nothing."""


def test_success_is_returned_at_once_with_the_arguments_passed_on(pauses: list[float]) -> None:
    work = Work()
    assert retry_on_failure()(work)(1, key=2) == ((1,), {"key": 2})
    assert (work.calls, pauses) == (1, [])


def test_two_transient_failures_are_survived_by_default(pauses: list[float]) -> None:
    work = Work(*transient(2))
    assert retry_on_failure()(work)() == ((), {})
    assert work.calls == 3


def test_pauses_double(pauses: list[float]) -> None:
    retry_on_failure(retries=4, delay=0.5)(Work(*transient(4)))()
    assert pauses == [0.5, 1, 2, 4]


def test_pause_is_random_from_zero() -> None:
    bounds: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        bounds.append((low, high))
        return 0.125

    policy = RetryPolicy(retries=2, delay=0.5, uniform=uniform)
    assert [policy.pause(1), policy.pause(2)] == [0.125, 0.125]
    assert bounds == [(0, 0.5), (0, 1.0)]


def test_last_failure_is_raised_as_it_is_when_retries_are_used_up(pauses: list[float]) -> None:
    failures = transient(3)
    work = Work(*failures)
    with pytest.raises(TransientFailure) as raised:
        retry_on_failure()(work)()
    assert raised.value is failures[2]
    assert (work.calls, len(pauses)) == (3, 2)


def test_no_retries_means_one_attempt(pauses: list[float]) -> None:
    work = Work(*transient(1))
    with pytest.raises(TransientFailure):
        retry_on_failure(retries=0)(work)()
    assert (work.calls, pauses) == (1, [])


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
def test_nothing_but_a_transient_failure_is_tried_again(
    failure: Exception, pauses: list[float]
) -> None:
    work = Work(failure)
    with pytest.raises(type(failure)) as raised:
        retry_on_failure()(work)()
    assert raised.value is failure
    assert (work.calls, pauses) == (1, [])


def test_failure_after_a_retry_may_be_of_another_kind(pauses: list[float]) -> None:
    work = Work(TransientFailure("first"), OutcomeUnknown("second"))
    with pytest.raises(OutcomeUnknown):
        retry_on_failure()(work)()
    assert work.calls == 2


@pytest.mark.parametrize("delay", [0, 1])
def test_does_not_begin_a_pause_that_would_outlast_the_deadline(
    delay: float, pauses: list[float]
) -> None:
    work = Work(*transient(1))
    deadline.start(0)
    with pytest.raises(TransientFailure, match="failure 1"):
        retry_on_failure(delay=delay)(work)()
    assert (work.calls, pauses) == (1, [])


def test_retries_while_the_deadline_is_far(pauses: list[float]) -> None:
    deadline.start(600)
    assert retry_on_failure(delay=1)(Work(*transient(2)))() == ((), {})
    assert pauses == [1, 2]


def test_policy_is_that_of_the_call_not_of_the_decoration(pauses: list[float]) -> None:
    work = Work(*transient(2))
    decorated = retry_on_failure()(work)
    policy_in_effect.set(RetryPolicy(retries=1, sleep=pauses.append))
    with pytest.raises(TransientFailure):
        decorated()
    assert work.calls == 2


def test_arguments_stand_in_for_their_half_of_the_policy_only(pauses: list[float]) -> None:
    policy_in_effect.set(RetryPolicy(1, 0.25, sleep=pauses.append, uniform=lambda _, high: high))
    with pytest.raises(TransientFailure):
        retry_on_failure(delay=3)(Work(*transient(9)))()
    assert pauses == [3]
    pauses.clear()
    retry_on_failure(retries=2)(Work(*transient(2)))()
    assert pauses == [0.25, 0.5]


def test_every_retry_and_its_cause_is_logged(
    pauses: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "user_service"):
        retry_on_failure()(Work(*transient(1)))()
    assert caplog.messages == ["retry 1 of 2 in 0.500 s after: failure 1"]


def test_decorated_function_keeps_its_name_and_signature() -> None:
    decorated = retry_on_failure()(named_work)
    assert (decorated.__name__, decorated.__doc__) == ("named_work", "Do nothing.")


def test_defaults_are_two_retries_of_half_a_second() -> None:
    assert (RetryPolicy().retries, RetryPolicy().delay) == (2, 0.5)


class TestBudget:
    def budgeted(self, budget: RetryBudget, pauses: list[float]) -> RetryPolicy:
        policy = RetryPolicy(budget=budget, sleep=pauses.append, uniform=lambda _low, high: high)
        policy_in_effect.set(policy)
        return policy

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

    def test_that_was_refused_costs_nothing(self) -> None:
        budget = RetryBudget(share=0.5, reserve=1)
        assert budget.take_out()
        budget.pay_in()
        assert not budget.take_out()
        budget.pay_in()
        assert budget.take_out()

    def test_every_retry_takes_one_out_and_every_call_pays_in(self, pauses: list[float]) -> None:
        budget = RetryBudget(share=0.5, reserve=4)
        self.budgeted(budget, pauses)
        retry_on_failure()(Work(*transient(2)))()
        assert [budget.take_out() for _ in range(3)] == [True, True, False]
        for _ in range(2):
            retry_on_failure()(Work())()
        assert [budget.take_out() for _ in range(2)] == [True, False]

    def test_that_is_used_up_means_the_failure_is_raised_as_it_is(
        self, pauses: list[float], caplog: pytest.LogCaptureFixture
    ) -> None:
        self.budgeted(RetryBudget(share=0, reserve=1), pauses)
        failures = transient(3)
        work = Work(*failures)
        with pytest.raises(TransientFailure) as raised:
            retry_on_failure()(work)()
        assert raised.value is failures[1]
        assert (work.calls, len(pauses)) == (2, 1)
        assert caplog.messages[-1] == (
            "not retrying, the process's retry budget is used up: failure 2"
        )

    def test_is_not_spent_on_a_pause_that_the_deadline_forbids(self, pauses: list[float]) -> None:
        budget = RetryBudget(share=0, reserve=1)
        self.budgeted(budget, pauses)
        deadline.start(0)
        with pytest.raises(TransientFailure):
            retry_on_failure()(Work(*transient(1)))()
        assert budget.take_out()

    def test_keeps_an_outage_to_a_tenth_more_calls(self, pauses: list[float]) -> None:
        self.budgeted(RetryBudget(), pauses)
        attempts = 0
        for _ in range(1000):
            work = Work(*transient(9))
            with pytest.raises(TransientFailure):
                retry_on_failure()(work)()
            attempts += work.calls
        assert attempts == pytest.approx(1000 + 100 + 10, abs=2)

    @pytest.mark.parametrize(("retries", "delay"), [(5, None), (None, 0.0), (5, 0.0)])
    def test_is_one_for_all_functions_whatever_they_stand_in_for(
        self, pauses: list[float], retries: int | None, delay: float | None
    ) -> None:
        self.budgeted(RetryBudget(share=0, reserve=2), pauses)
        retry_on_failure()(Work(*transient(2)))()
        work = Work(*transient(1))
        with pytest.raises(TransientFailure):
            retry_on_failure(retries, delay)(work)()
        assert work.calls == 1

    def test_is_another_for_every_policy(self) -> None:
        assert RetryPolicy().budget is not RetryPolicy().budget
