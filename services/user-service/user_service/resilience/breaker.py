"""The circuit breaker: it stops calls to a dependency that is down, and finds out when it is back.

pybreaker, the library for this, lets every waiting call through at once when it is half-open, and
measures time by the wall clock.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum

from user_service.errors import CircuitOpen, Unavailable

log = logging.getLogger(__name__)


class State(StrEnum):
    """Closed admits calls, open refuses them, half-open admits one at a time."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class CircuitBreaker:
    """Opens after ``threshold`` failures in a row, and tries again after ``open_seconds``.

    Each process has its own. The lock is held for bookkeeping only, never during a call, so calls
    stay parallel.
    """

    def __init__(  # noqa: PLR0913 -- by name, each with its default
        self,
        name: str,
        *,
        failures: tuple[type[BaseException], ...],
        threshold: int = 5,
        open_seconds: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        on_change: Callable[[State], None] = lambda _: None,
    ) -> None:
        """Count the exceptions in ``failures``.

        Other kinds of Unavailable, and exceptions that end a program, count as nothing. All others
        are answers of the dependency, and count as success. ``on_change`` receives each new state,
        and OPEN again when the call that tried has failed.
        """
        self.name = name
        self._failures = failures
        self._threshold = threshold
        self._open_seconds = open_seconds
        self._clock = clock
        self._on_change = on_change
        self._lock = threading.Lock()
        self._failed_in_a_row = 0
        self._opened_at: float | None = None
        self._is_trying = False
        # Replaced when the breaker opens or closes. A call counts only in the period in which it
        # began: the end of an older call tells nothing about the dependency as it is now.
        self._period = 0

    @property
    def state(self) -> State:
        """The state that the next call will meet."""
        if self._opened_at is None:
            return State.CLOSED
        return State.OPEN if self._seconds_left() > 0 else State.HALF_OPEN

    def refuse_if_open(self) -> None:
        """Raise CircuitOpen if a call would be refused now, without beginning one."""
        if self._opened_at is not None and (self._is_trying or self._seconds_left() > 0):
            raise CircuitOpen(f"{self.name} did not answer lately", self._seconds_left())

    @contextmanager
    def calling(self, *, blaming: bool = True) -> Iterator[None]:
        """Count the end of the call in the block, or raise CircuitOpen instead of entering it.

        Without ``blaming``, a failure opens no closed breaker: the call had too little time.
        """
        # The period is read before the state: if the breaker opens now, this call is an old one.
        period, is_try = self._period, False
        if self._opened_at is not None:
            period, is_try = self._begin()
        has_failed = None  # until the end of the call tells about the dependency
        try:
            yield
            has_failed = False
        except self._failures:
            has_failed = True if blaming or is_try else None
            raise
        except Exception as error:
            has_failed = None if isinstance(error, Unavailable) else False
            raise
        finally:
            # The success of a healthy dependency changes nothing, and takes no lock.
            if is_try or has_failed or self._failed_in_a_row:
                self._count(period, has_failed=has_failed, is_try=is_try)

    def _begin(self) -> tuple[int, bool]:
        """Return the period, and whether this call tries if the dependency is back."""
        with self._lock:
            self.refuse_if_open()
            self._is_trying = self._opened_at is not None  # it may have closed a moment ago
            if self._is_trying:
                self._on_change(State.HALF_OPEN)
            return self._period, self._is_trying

    def _count(self, period: int, *, has_failed: bool | None, is_try: bool) -> None:
        with self._lock:
            if period != self._period:
                return
            if is_try:
                self._is_trying = False
            if has_failed:
                self._failed_in_a_row += 1
                if self._failed_in_a_row >= self._threshold:
                    log.warning("circuit breaker of %s opens", self.name)
                    self._change(State.OPEN, self._clock())
            elif has_failed is not None:
                self._failed_in_a_row = 0
                if is_try:
                    log.info("circuit breaker of %s closes", self.name)
                    self._change(State.CLOSED, None)

    def _change(self, state: State, opened_at: float | None) -> None:
        self._opened_at = opened_at
        self._period += 1
        self._on_change(state)

    def _seconds_left(self) -> float:
        opened_at = self._opened_at
        return 0.0 if opened_at is None else opened_at + self._open_seconds - self._clock()
