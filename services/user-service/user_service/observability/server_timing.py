"""Stages: where the time of a request goes. The one place where its parts are timed.

A stage inside another is not counted in that one, so that together they are never more than the
whole request. Without a listener (SERVER_TIMING off, and no histogram) a stage is nothing.
"""

import time
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from types import TracebackType
from typing import Protocol


class Histogram(Protocol):
    """What a stage may tell its seconds to."""

    def observe(self, amount: float, /) -> None:
        """Count one stage that took so long."""


class Stages:
    """The seconds of one request by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.inner = 0.0  # seconds of finished stages within the one that is open


_of_request: ContextVar[Stages | None] = ContextVar("stages", default=None)
_UNTIMED = nullcontext()


def begin() -> None:
    """Have the stages of the request at hand written down."""
    _of_request.set(Stages())


def end() -> dict[str, float]:
    """Return the stages so far in the order in which they ended, and write down no more."""
    stages = _of_request.get()
    _of_request.set(None)
    return {} if stages is None else stages.seconds


def stage(name: str, histogram: Histogram | None = None) -> AbstractContextManager[None]:
    """Time a block as part of the request at hand, and for ``histogram``, waits included."""
    stages = _of_request.get()
    if stages is None and histogram is None:
        return _UNTIMED
    return _Timed(name, stages, histogram)


class _Timed:
    __slots__ = ("_began", "_histogram", "_name", "_outer", "_stages")

    def __init__(self, name: str, stages: Stages | None, histogram: Histogram | None) -> None:
        self._name = name
        self._stages = stages
        self._histogram = histogram

    def __enter__(self) -> None:
        if self._stages is not None:
            self._outer, self._stages.inner = self._stages.inner, 0.0
        self._began = time.perf_counter()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        seconds = time.perf_counter() - self._began
        if self._histogram is not None:
            self._histogram.observe(seconds)
        if self._stages is not None:
            own = seconds - self._stages.inner
            known = self._stages.seconds
            known[self._name] = known.get(self._name, 0.0) + own
            self._stages.inner = self._outer + seconds
