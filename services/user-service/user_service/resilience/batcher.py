"""Reads by key that share a round trip where several come at once. It exists for speed only."""

import threading
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
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
        self._gathering: _Batch[K, V] | None = None

    @property
    def gathering(self) -> int:
        """The number of keys in the batch that gathers."""
        batch = self._gathering
        return 0 if batch is None else len(batch.keys)

    def get(self, key: K) -> V:
        """Return the value of ``key``.

        If the shared read failed for the request that made it, each of the others reads its key
        alone. Raise DeadlineExceeded if it takes longer than the deadline of this request.
        """
        with self._lock:
            batch = self._gathering
            if leads := batch is None:
                batch = self._gathering = _Batch()
            batch.keys.add(key)
        if leads:
            self._lead(batch)
        elif not batch.is_read.wait(min(deadline.remaining(), threading.TIMEOUT_MAX)):
            raise DeadlineExceeded("a shared read was not answered within the deadline")
        values = self._read({key}) if batch.values is None else batch.values
        return values[key]

    def _lead(self, batch: "_Batch[K, V]") -> None:
        """Read the batch when the read before it is over, or has taken too long."""
        is_turn = False
        try:
            try:
                is_turn = self._under_way.acquire(timeout=LONGEST_WAIT)
            finally:
                with self._lock:
                    self._gathering = None  # later requests begin another batch
            batch.values = self._read(batch.keys)
        finally:
            batch.is_read.set()
            if is_turn:
                self._under_way.release()


@dataclass(slots=True)
class _Batch(Generic[K, V]):
    """``values`` is None until the batch is read, and after a failure."""

    keys: set[K] = field(default_factory=set)
    is_read: threading.Event = field(default_factory=threading.Event)
    values: Mapping[K, V] | None = None
