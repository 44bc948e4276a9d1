"""The circuit breaker: stop asking what does not answer, and find out when it does again.

Written here because pybreaker, the library for it, lets every waiting call through at once when
it tries whether the dependency is back, and takes its time from the wall clock.
"""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from enum import StrEnum
from types import TracebackType

from user_service.errors import CircuitOpen, DeadlineExceeded, Unavailable

log = logging.getLogger(__name__)


class State(StrEnum):
    """Closed lets calls through, open refuses them, half-open lets one through at a time."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class CircuitBreaker:
    """Opens after ``threshold`` failures in a row, and tries again after ``open_seconds``.

    The breaker is local to its process. Its lock is held for bookkeeping only, never during a
    call, so calls stay parallel.
    """

    def __init__(
        self,
        name: str,
        *,
        failures: tuple[type[BaseException], ...],
        threshold: int = 5,
        open_seconds: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        on_change: Callable[[State], None] = lambda _: None,
    ) -> None:
        """``failures`` are the exceptions that count; others say that the dependency answered.

        Only the other kinds of Unavailable, and what ends a program, say nothing either way.
        ``on_change`` is told of each new state, and of open again if the call that tried failed.
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
        self._probing = False
        # Moves on whenever the breaker opens or closes: calls count only in the one they began in.
        self._period = 0

    @property
    def state(self) -> State:
        """The state that the next call meets."""
        if self._opened_at is None:
            return State.CLOSED
        return State.OPEN if self._seconds_left() > 0 else State.HALF_OPEN

    def refuse_if_open(self) -> None:
        """Raise CircuitOpen if a call would be refused now, without beginning one."""
        if self._opened_at is not None and (self._seconds_left() > 0 or self._probing):
            raise CircuitOpen(f"{self.name} did not answer lately", self._seconds_left())

    def calling(self, *, blaming: bool = True, stands_for: int = 1) -> AbstractContextManager[None]:
        """Count how the call in the block ends; raise CircuitOpen instead of beginning it.

        Without ``blaming`` its failure is not counted: it was given too little time to tell.
        A time-out of one that ``stands_for`` several counts as so many: as many have waited in
        vain. A lost connection is one failure, however many were to share what it was lost with.
        """
        return _Call(self, blaming=blaming, stands_for=stands_for)

    def _begin(self) -> tuple[int, bool]:
        """Return the period, and whether this call tries whether the dependency is back."""
        if self._opened_at is None:
            return self._period, False
        with self._lock:
            self.refuse_if_open()
            self._probing = self._opened_at is not None
            if self._probing:
                self._on_change(State.HALF_OPEN)
            return self._period, self._probing

    def _ended(self, error: BaseException | None, call: "_Call") -> None:
        if error is None:
            if self._failed_in_a_row:
                self._succeeded(call.period)
        elif isinstance(error, self._failures):
            if call.blaming:
                self._failed(call, call.stands_for if isinstance(error, DeadlineExceeded) else 1)
            else:
                self._broken_off(probing=call.probing)
        elif isinstance(error, Unavailable) or not isinstance(error, Exception):
            self._broken_off(probing=call.probing)
        else:
            self._succeeded(call.period)

    def _failed(self, call: "_Call", times: int) -> None:
        with self._lock:
            if call.period != self._period:
                return  # began before the breaker opened or closed, and tells nothing of now
            self._failed_in_a_row += times
            self._probing = False
            if call.probing or self._failed_in_a_row >= self._threshold:
                log.warning("circuit breaker of %s opens", self.name)
                self._opened_at = self._clock()
                self._period += not call.probing
                self._on_change(State.OPEN)

    def _succeeded(self, period: int) -> None:
        with self._lock:
            if period != self._period:
                return
            if self._opened_at is not None:
                log.info("circuit breaker of %s closes", self.name)
                self._opened_at = None
                self._period += 1
                self._on_change(State.CLOSED)
            self._failed_in_a_row = 0
            self._probing = False

    def _broken_off(self, *, probing: bool) -> None:
        """Count a call that ended without an answer and without blame: not at all."""
        if probing:
            with self._lock:
                self._probing = False

    def _seconds_left(self) -> float:
        opened_at = self._opened_at
        return 0.0 if opened_at is None else opened_at + self._open_seconds - self._clock()


class _Call:
    """One call, from its beginning to its end."""

    # Not a generator as other context managers here: it is entered up to four times a request.
    __slots__ = ("_breaker", "blaming", "period", "probing", "stands_for")

    def __init__(self, breaker: CircuitBreaker, *, blaming: bool, stands_for: int) -> None:
        self._breaker = breaker
        self.blaming = blaming
        self.stands_for = stands_for

    def __enter__(self) -> None:
        self.period, self.probing = self._breaker._begin()  # noqa: SLF001 -- it is a part of it

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._breaker._ended(error, self)  # noqa: SLF001
