"""Retries of transient failures: nothing was committed, and time and budget are left.

tenacity would add its own stop and wait objects around the same rules: the deadline, the budget
and the outcomes that are counted here.
"""

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ParamSpec, TypeVar

from user_service.errors import TransientFailure, Unavailable
from user_service.resilience import deadline

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")


class Outcome(StrEnum):
    """The end of a call that met a transient failure."""

    RECOVERED = "recovered"  # a later attempt was answered, with a result or an error
    FAILED = "failed"  # no retry was left, or a later attempt met a failure that is not transient
    NO_TIME = "no_time"
    NO_BUDGET = "no_budget"


@dataclass(slots=True)
class RetryPolicy:
    """How often a transient failure is retried, after which pauses, and how many in a process.

    The pause before retry n (from 1) is a random time between 0 and ``delay * 2**(n-1)`` seconds.
    This full jitter keeps the clients of a recovering server from returning in step.

    The budget keeps an outage small: each call adds a ``share`` of a retry to the ``balance``,
    which each retry reduces by 1. It begins with ``reserve``, its maximum, so that a quiet service
    can retry too.
    """

    retries: int = 2
    delay: float = 0.5
    share: float = 0.1
    reserve: float = 10.0
    sleep: Callable[[float], None] = time.sleep
    uniform: Callable[[float, float], float] = random.uniform
    on_end: Callable[[Outcome], None] = lambda _: None
    balance: float = field(init=False)

    def __post_init__(self) -> None:
        self.balance = self.reserve

    def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Return the result of ``function``, called again after each TransientFailure.

        The failure itself is raised when the retries or the budget are used up, or when the pause
        would outlast the deadline. No other exception is retried: a PoolTimeout would join a longer
        queue, the breaker would refuse a CircuitOpen again, and an OutcomeUnknown may have been
        committed.
        """
        self.balance = min(self.reserve, self.balance + self.share)
        attempt = 0
        while True:
            attempt += 1
            try:
                result = function(*args, **kwargs)
            except TransientFailure as failure:
                self._pause_before(attempt, failure)
            except Exception as error:
                if attempt > 1:
                    failed = isinstance(error, Unavailable)
                    self.on_end(Outcome.FAILED if failed else Outcome.RECOVERED)
                raise
            else:
                if attempt > 1:
                    self.on_end(Outcome.RECOVERED)
                return result

    def _pause_before(self, retry: int, failure: TransientFailure) -> None:
        """Sleep, or raise ``failure`` if there is to be no retry."""
        if retry > self.retries:
            self.on_end(Outcome.FAILED)
            raise failure
        pause = self.uniform(0, self.delay * 2 ** (retry - 1))
        if pause >= deadline.remaining():
            log.warning("not retrying, the deadline is near: %s", failure)
            self.on_end(Outcome.NO_TIME)
            raise failure
        if self.balance < 1:
            log.warning("not retrying, the process's retry budget is used up: %s", failure)
            self.on_end(Outcome.NO_BUDGET)
            raise failure
        self.balance -= 1
        log.warning("retry %d of %d in %.3f s after: %s", retry, self.retries, pause, failure)
        self.sleep(pause)
