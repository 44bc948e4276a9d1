"""The deadline: when the request at hand must have been answered.

It is kept in a context variable, so that whatever waits (a checkout, a query, a pause between
retries) can ask how long it may, without every signature in between passing it on. Threads and
greenlets each have their own.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_expires_at: ContextVar[float] = ContextVar("deadline", default=math.inf)


def start(seconds: float) -> None:
    """Give the request at hand ``seconds`` from now, whatever an earlier one left."""
    _expires_at.set(time.monotonic() + seconds)


def postpone(seconds: float) -> None:
    """Give the request at hand ``seconds`` more: so long the client itself took."""
    _expires_at.set(_expires_at.get() + seconds)


def clear() -> None:
    """Take the deadline away: the request is over."""
    _expires_at.set(math.inf)


def expiry() -> float:
    """Return when that is, on the monotonic clock; infinity outside of a request."""
    return _expires_at.get()


def remaining() -> float:
    """Return the seconds left, never below 0; infinity outside of a request."""
    return max(0.0, expiry() - time.monotonic())


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Shorten the deadline to ``seconds`` from now for a block; never lengthen it."""
    outer = _expires_at.get()
    token = _expires_at.set(min(outer, time.monotonic() + seconds))
    try:
        yield
    finally:
        _expires_at.reset(token)
