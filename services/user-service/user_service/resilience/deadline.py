"""The deadline: the moment by which the current request must have been answered.

A context variable holds it, so that every wait (a checkout, a query, a pause between retries) can
bound itself without a parameter in each signature. Threads and greenlets each have their own.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

# On the monotonic clock; infinity outside of a request.
_expires_at: ContextVar[float] = ContextVar("deadline", default=math.inf)


def postpone(seconds: float) -> None:
    """Move the deadline by ``seconds``, such as the client itself took to send its body."""
    _expires_at.set(_expires_at.get() + seconds)


def remaining() -> float:
    """Return the seconds left, at least 0; infinity outside of a request."""
    return max(0.0, _expires_at.get() - time.monotonic())


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Shorten the deadline to ``seconds`` from now for a block; never extend it."""
    outer = _expires_at.get()
    token = _expires_at.set(min(outer, time.monotonic() + seconds))
    try:
        yield
    finally:
        _expires_at.reset(token)
