"""Single flight: of callers that want the same at the same time, one works and the others wait."""

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

from user_service.errors import DeadlineExceeded, TransientFailure
from user_service.resilience import deadline

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class SingleFlight(Generic[K, V]):
    """The flights of one process, by key."""

    def __init__(self) -> None:
        # Those under way. What the others wait by is made by the first of them: few have any.
        self._flights: dict[K, Future[V] | None] = {}
        self._lock = threading.Lock()

    def run(self, key: K, work: Callable[[], V]) -> V:
        """Return what ``work`` returns for whoever came first; raise what it raises.

        Raise TransientFailure if that one had to give up, and DeadlineExceeded if it takes longer
        than this caller may wait.
        """
        with self._lock:
            if leads := key not in self._flights:
                self._flights[key] = None
            else:
                flight = self._flights[key] = self._flights[key] or Future()
        if leads:
            return self._lead(key, work)
        left = deadline.remaining()
        try:
            return flight.result(min(left, threading.TIMEOUT_MAX))
        except TimeoutError:
            raise DeadlineExceeded("somebody else's refill of the page takes too long") from None

    def _lead(self, key: K, work: Callable[[], V]) -> V:
        try:
            value = work()
        except BaseException as error:
            if (flight := self._landed(key)) is not None:
                # That our time is up, or that we are told to end, is not so for the others.
                concerns_us = isinstance(error, DeadlineExceeded)
                concerns_us |= not isinstance(error, Exception)
                broke_off = TransientFailure("the refill that was waited for broke off")
                flight.set_exception(broke_off if concerns_us else error)
            raise
        if (flight := self._landed(key)) is not None:
            flight.set_result(value)
        return value

    def _landed(self, key: K) -> Future[V] | None:
        with self._lock:
            return self._flights.pop(key)
