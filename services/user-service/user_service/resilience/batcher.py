"""Reads by key that share a round trip where several come at once. It exists for speed only."""

import threading
from collections.abc import Callable, Mapping, Set
from concurrent.futures import CancelledError, Future
from typing import Generic, TypeVar

from user_service.errors import DeadlineExceeded
from user_service.resilience import deadline

K = TypeVar("K")
V = TypeVar("V")

# Seconds for which a batch gathers at most, while the read before it is under way.
LONGEST_WAIT = 0.005


class Batcher(Generic[K, V]):
    """While a read is under way, later keys gather, and are then read together.

    Each read begins after its request came in, so its answer is as fresh as that of a read alone.
    """

    def __init__(self, read: Callable[[Set[K]], Mapping[K, V]]) -> None:
        """``read`` returns a value for each of its keys."""
        self._read = read
        self._lock = threading.Lock()
        self._under_way = threading.Lock()
        self._gathering: tuple[set[K], Future[Mapping[K, V]]] | None = None

    def get(self, key: K) -> V:
        """Return the value of ``key``.

        If the shared read failed for the request that made it, each of the others reads its key
        alone. Raise DeadlineExceeded if it takes longer than the deadline of this request.
        """
        with self._lock:
            if leads := self._gathering is None:
                self._gathering = (set(), Future())
            keys, values = self._gathering
            keys.add(key)
        if leads:
            self._lead(keys, values)
            return values.result()[key]
        try:
            return values.result(min(deadline.remaining(), threading.TIMEOUT_MAX))[key]
        except TimeoutError:
            raise DeadlineExceeded("a shared read was not answered within the deadline") from None
        except CancelledError:
            return self._read({key})[key]

    def _lead(self, keys: set[K], values: Future[Mapping[K, V]]) -> None:
        """Read the keys when the read before theirs is over, or has taken too long."""
        is_turn = False
        try:
            try:
                is_turn = self._under_way.acquire(timeout=LONGEST_WAIT)
            finally:
                with self._lock:
                    self._gathering = None  # later requests begin another batch
            values.set_result(self._read(keys))
        finally:
            values.cancel()  # without effect after a success
            if is_turn:
                self._under_way.release()
