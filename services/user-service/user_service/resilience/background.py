"""Work in the background, which may take longer than any request that waits for it."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import Context
from typing import TypeVar

from user_service.errors import NotPrepared, Unavailable
from user_service.resilience import deadline

log = logging.getLogger(__name__)

T = TypeVar("T")


def in_background(work: Callable[[], T]) -> Future[T]:
    """Begin ``work`` in a daemon thread, for which the end of the process does not wait."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 -- raised by those that wait
            future.set_exception(error)

    # In an empty context: the caller's deadline, request id and principal do not apply here.
    thread = threading.Thread(target=Context().run, args=(run,), daemon=True)
    thread.start()
    return future


class Preparation:
    """Work that must succeed once before a dependency is used: migrations, for example.

    It runs once at a time for all callers, without a deadline, and again after it has failed.
    """

    def __init__(self, dependency: str, work: Callable[[], object]) -> None:
        self._dependency = dependency
        self._work = work
        self._lock = threading.Lock()
        self._last_run: Future[None] | None = None
        self.is_done = False

    def ensure(self, timeout: float) -> None:
        """Return once the work has succeeded; wait for ``timeout`` seconds at most.

        Raise Unavailable if it is still under way or raised that itself, and NotPrepared if it
        failed in any other way.
        """
        with self._lock:
            run = self._last_run
            if run is None or (run.done() and run.exception()):
                run = self._last_run = in_background(self._run)
        try:
            run.result(min(timeout, deadline.remaining()))
        except TimeoutError:
            raise Unavailable(f"{self._dependency} is still being prepared") from None
        self.is_done = True

    def _run(self) -> None:
        try:
            self._work()
        except Unavailable:
            raise
        except Exception as error:
            log.exception("%s cannot be prepared", self._dependency)
            raise NotPrepared(f"{self._dependency} cannot be prepared") from error
