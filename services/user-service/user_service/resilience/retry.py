"""Retry: try again what failed in passing, when nothing was committed and time is left."""

import dataclasses
import functools
import itertools
import logging
import random
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ParamSpec, TypeVar

from user_service.errors import TransientFailure, Unavailable
from user_service.resilience import deadline

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")


class Outcome(StrEnum):
    """How a call ended that met a transient failure."""

    RECOVERED = "recovered"  # the database answered in the end, be it with an error
    FAILED = "failed"  # the retries were used up, or the database cannot be had for other reasons
    NO_TIME = "no_time"
    NO_BUDGET = "no_budget"


class RetryBudget:
    """How many retries a process may spend: a share of its calls, so that an outage stays small.

    Every call pays ``share`` of a retry in, every retry takes one out; ``reserve`` is what it
    begins with and the most that it holds, so that a quiet service can retry too.
    """

    def __init__(self, share: float = 0.1, reserve: float = 10.0) -> None:
        self._share = share
        self._reserve = reserve
        self._saved = reserve

    def pay_in(self) -> None:
        """Count one call."""
        self._saved = min(self._reserve, self._saved + self._share)

    def take_out(self) -> bool:
        """Spend one retry; return False if there is none left."""
        if self._saved < 1:
            return False
        self._saved -= 1
        return True


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often, and with what pauses, a transient failure is tried again.

    Before retry n (from 1) it pauses a random time between 0 and ``delay * 2**(n-1)`` seconds:
    full jitter, so that the clients of a server that comes back do not return in step.
    """

    retries: int = 2
    delay: float = 0.5
    budget: RetryBudget = field(default_factory=RetryBudget)
    sleep: Callable[[float], None] = time.sleep
    uniform: Callable[[float, float], float] = random.uniform
    on_end: Callable[[Outcome], None] = lambda _: None

    def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Interim."""
        token = policy_in_effect.set(self)
        try:
            return retry_on_failure()(function)(*args, **kwargs)
        finally:
            policy_in_effect.reset(token)

    def pause(self, retry: int) -> float:
        """Return the seconds to wait before retry number ``retry``, counted from 1."""
        return self.uniform(0, self.delay * 2 ** (retry - 1))


# The policy of the request at hand, RETRY_ATTEMPTS and RETRY_DELAY, put here by the middleware.
policy_in_effect: ContextVar[RetryPolicy] = ContextVar("retry_policy", default=RetryPolicy())


def pay_in() -> None:
    """Count a call that succeeded at once, where nothing was to be retried."""
    policy_in_effect.get().budget.pay_in()


def retry_on_failure(
    retries: int | None = None, delay: float | None = None
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Call the function again after a TransientFailure, which says that nothing was committed.

    ``retries`` (times) and ``delay`` (seconds) stand in for the policy in effect, which is 2 and
    0.5 unless RETRY_ATTEMPTS and RETRY_DELAY say otherwise. The failure is raised as it is when
    the retries or the process's budget are used up, or when the pause would outlast the deadline.
    Nothing else is retried: a PoolTimeout would come back to an even longer queue, what a breaker
    refused would be refused again, and an OutcomeUnknown may have happened already.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            policy = _policy(retries, delay)
            policy.budget.pay_in()
            for retry in itertools.count(1):
                try:
                    result = function(*args, **kwargs)
                except TransientFailure as failure:
                    _pause_before(retry, policy, failure)
                except Exception as error:
                    if retry > 1:
                        unavailable = isinstance(error, Unavailable)
                        policy.on_end(Outcome.FAILED if unavailable else Outcome.RECOVERED)
                    raise
                else:
                    if retry > 1:
                        policy.on_end(Outcome.RECOVERED)
                    return result
            raise AssertionError("unreachable: count() does not end")

        return call

    return decorate


def _policy(retries: int | None, delay: float | None) -> RetryPolicy:
    policy = policy_in_effect.get()
    if retries is None and delay is None:
        return policy
    return dataclasses.replace(
        policy,
        retries=policy.retries if retries is None else retries,
        delay=policy.delay if delay is None else delay,
    )


def _pause_before(retry: int, policy: RetryPolicy, failure: TransientFailure) -> None:
    if retry > policy.retries:
        policy.on_end(Outcome.FAILED)
        raise failure
    pause = policy.pause(retry)
    if pause >= deadline.remaining():
        log.warning("not retrying, the deadline is near: %s", failure)
        policy.on_end(Outcome.NO_TIME)
        raise failure
    if not policy.budget.take_out():
        log.warning("not retrying, the process's retry budget is used up: %s", failure)
        policy.on_end(Outcome.NO_BUDGET)
        raise failure
    log.warning("retry %d of %d in %.3f s after: %s", retry, policy.retries, pause, failure)
    policy.sleep(pause)
