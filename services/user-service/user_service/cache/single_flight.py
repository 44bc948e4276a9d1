"""Single flight: one caller does the work, and concurrent callers for the same key wait for it."""

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import CancelledError, Future
from typing import Generic, TypeVar

from user_service.errors import DeadlineExceeded
from user_service.resilience import deadline

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class SingleFlight(Generic[K, V]):
    """The work under way in this process, by key."""

    def __init__(self) -> None:
        self._flights: dict[K, Future[V]] = {}
        self._lock = threading.Lock()

    def run(self, key: K, work: Callable[[], V]) -> V:
        """Return the value of ``work``, done once for all concurrent callers with ``key``.

        If that work fails, each of the other callers does it alone. Raise
        DeadlineExceeded if the work takes longer than this caller's deadline.
        """
        own: Future[V] = Future()
        with self._lock:
            flight = self._flights.setdefault(key, own)
        if flight is not own:
            try:
                return flight.result(min(deadline.remaining(), threading.TIMEOUT_MAX))
            except TimeoutError:
                raise DeadlineExceeded("another request's work took too long") from None
            except CancelledError:
                return work()
        try:
            value = work()
            flight.set_result(value)
            return value
        finally:
            with self._lock:
                del self._flights[key]
            flight.cancel()  # without effect after a success
