"""Single flight: of callers that want the same at the same time, one works and the others wait."""

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

from user_service.errors import DeadlineExceeded
from user_service.resilience import deadline

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class SingleFlight(Generic[K, V]):
    """The flights of one process, by key."""

    def __init__(self) -> None:
        self._flights: dict[K, Future[V]] = {}
        self._lock = threading.Lock()

    def run(self, key: K, work: Callable[[], V]) -> V:
        """Return what ``work`` returns for whoever came first; raise what it raises.

        Raise DeadlineExceeded if that takes longer than this caller may wait.
        """
        with self._lock:
            under_way = self._flights.get(key)
            flight = under_way or self._flights.setdefault(key, Future())
        if under_way is None:
            return self._lead(key, flight, work)
        left = deadline.remaining()
        try:
            return flight.result(min(left, threading.TIMEOUT_MAX))
        except TimeoutError:
            raise DeadlineExceeded("somebody else's refill of the page takes too long") from None

    def _lead(self, key: K, flight: Future[V], work: Callable[[], V]) -> V:
        try:
            value = work()
        except BaseException as error:
            flight.set_exception(error)
            raise
        else:
            flight.set_result(value)
            return value
        finally:
            with self._lock:
                del self._flights[key]
