"""A dictionary of what was used lately, with a bound."""

import threading
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """Keeps ``size`` values at most; of more, what was kept first goes first.

    Not what was used least lately: to know that would cost a write for every look.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: dict[K, V] = {}
        self._lock = threading.Lock()

    def get(self, key: K) -> V | None:
        """Return what is kept for ``key``, or None."""
        return self._values.get(key)

    def keep(self, key: K, value: V) -> None:
        """Keep ``value`` for ``key``."""
        with self._lock:
            self._values.pop(key, None)
            if len(self._values) == self._size:
                del self._values[next(iter(self._values))]
            self._values[key] = value
