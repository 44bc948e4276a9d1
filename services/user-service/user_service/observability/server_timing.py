"""Stages: the parts of a request's time, for ``Server-Timing`` and for histograms.

The time of a stage excludes the stages inside it, so all stages together never exceed the request.
A ContextVar collects them, because the pool and the cache, which time them, know no request.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

# Receives the seconds of a stage.
Observe = Callable[[float], object]


class Stages:
    """The seconds of one request by stage."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.seconds: dict[str, float] = {}
        self.inner = 0.0  # seconds of the finished stages inside the current one


_of_request: ContextVar[Stages | None] = ContextVar("stages", default=None)
_UNTIMED = nullcontext()


def begin() -> None:
    """Collect the stages of the current request from now on."""
    _of_request.set(Stages())


def end() -> dict[str, float]:
    """Stop collecting. Return the seconds by stage, in the order of their ends, and the total."""
    stages = _of_request.get() or Stages()
    _of_request.set(None)
    return {**stages.seconds, "total": time.perf_counter() - stages.began}


def stage(name: str, observe: Observe | None = None) -> AbstractContextManager[None]:
    """Time a block for the current request; ``observe`` gets its time with the stages inside it."""
    stages = _of_request.get()
    if stages is None and observe is None:
        return _UNTIMED
    return _timed(name, stages or Stages(), observe)


@contextmanager
def _timed(name: str, stages: Stages, observe: Observe | None) -> Iterator[None]:
    before, stages.inner = stages.inner, 0.0
    began = time.perf_counter()
    try:
        yield
    finally:
        seconds = time.perf_counter() - began
        if observe is not None:
            observe(seconds)
        stages.seconds[name] = stages.seconds.get(name, 0.0) + seconds - stages.inner
        stages.inner = before + seconds
