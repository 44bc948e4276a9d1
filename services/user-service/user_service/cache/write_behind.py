"""Write-behind: what nobody has to wait for is written behind the responses, and together."""

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Generic, TypeVar

T = TypeVar("T")

log = logging.getLogger(__name__)

# Seconds for which what is to be written gathers, unless it was alone the last time. Of 10 clients'
# uncached pages, in turn with a store before each response: without it 1.11 times as many, with
# 1 ms 1.15 and with 4 ms 1.23.
GATHER = 0.004
# So much may wait for the write before it, and is the most of one write: what a server that does
# not keep up costs in memory.
MOST = 128


class WriteBehind(Generic[T]):
    """Hands all that is put to ``write``, in a thread of its own, as soon as it has gathered."""

    def __init__(self, write: Callable[[Sequence[T]], None], *, gather: float = GATHER) -> None:
        """``write`` must end by itself; ``gather`` is in seconds."""
        self._write = write
        self._gather = gather
        self._waiting: list[T] = []
        self._is_alone = True
        self._lock = threading.Lock()
        self._closing = threading.Event()
        # It begins its thread with the first write, so the object may be made before a fork.
        self._thread = _one_thread()

    def put(self, item: T) -> bool:
        """Have ``item`` written soon; return False if it will not be, as where too many wait.

        A write is logged and traced as a part of whatever asked for the first of it.
        """
        with self._lock:
            if self._closing.is_set() or len(self._waiting) == MOST:
                return False
            if not self._waiting:
                try:  # before anything waits for it: a time-out may break this off
                    self._thread.submit(copy_context().run, self._write_what_waits)
                except RuntimeError:  # the system has no thread for us; the task is kept, though
                    self._thread = _one_thread()
                    return False
            self._waiting.append(item)
        return True

    def flush(self) -> None:
        """Return when all that has been put is written."""
        self._thread.submit(int).result()

    def close(self) -> None:
        """Write what waits, and end."""
        with self._lock:
            self._closing.set()
        self._thread.shutdown()

    def _write_what_waits(self) -> None:
        if not self._is_alone:
            self._closing.wait(self._gather)
        with self._lock:
            items, self._waiting = self._waiting, []
        if not items:  # whoever put the first was broken off
            return
        try:
            self._write(items)
        except Exception:
            log.exception("a write behind the responses failed")
        self._is_alone = len(items) == 1 and not self._waiting


def _one_thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="write-behind")
