"""Stages: the parts of a request's time, for ``Server-Timing`` and for histograms.

The time of a stage excludes the stages inside it, so all stages together never exceed the request.
A ContextVar collects them, because the pool and the cache, which time them, know no request.
"""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Protocol


class Histogram(Protocol):
    """Counts the stages of one name by their seconds."""

    def observe(self, amount: float, /) -> None:
        """Count one stage that took ``amount`` seconds."""


class Stages:
    """The seconds of one request by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.inner = 0.0  # seconds of the finished stages inside the current one


_of_request: ContextVar[Stages | None] = ContextVar("stages", default=None)
_UNTIMED = nullcontext()


def begin() -> None:
    """Collect the stages of the current request from now on."""
    _of_request.set(Stages())


def end() -> dict[str, float]:
    """Return the seconds by stage, in the order in which the stages ended, and stop collecting."""
    stages = _of_request.get() or Stages()
    _of_request.set(None)
    return stages.seconds


def stage(name: str, histogram: Histogram | None = None) -> AbstractContextManager[None]:
    """Time a block for the current request, and for ``histogram`` with the stages inside it."""
    stages = _of_request.get()
    if stages is None and histogram is None:
        return _UNTIMED
    return _timed(name, stages or Stages(), histogram)


@contextmanager
def _timed(name: str, stages: Stages, histogram: Histogram | None) -> Iterator[None]:
    before, stages.inner = stages.inner, 0.0
    began = time.perf_counter()
    try:
        yield
    finally:
        seconds = time.perf_counter() - began
        if histogram is not None:
            histogram.observe(seconds)
        stages.seconds[name] = stages.seconds.get(name, 0.0) + seconds - stages.inner
        stages.inner = before + seconds
