"""A semaphore that is FIFO, which ``threading.Semaphore`` and ``queue.Queue`` are not.

Under load, a thread that has just released a slot of theirs can take it again before the waiting
threads run, which makes some requests wait for many turns of the others.
"""

import threading
from collections import deque


class FairSemaphore:
    """Counts ``value`` slots down. A slot that is released goes to the longest waiting caller."""

    def __init__(self, value: int) -> None:
        self._value = value
        self._waiters: deque[threading.Lock] = deque()
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        """The number of callers that wait."""
        return len(self._waiters)

    def acquire(self, timeout: float = 0) -> bool:
        """Take a slot, waiting for ``timeout`` seconds at most; return False if there is none."""
        with self._lock:
            if self._value:  # then there are no waiters
                self._value -= 1
                return True
            if timeout <= 0:
                return False
            turn = threading.Lock()
            turn.acquire()
            self._waiters.append(turn)
        try:
            return turn.acquire(timeout=timeout) or not self._withdraw(turn)
        except BaseException:  # the caller is ended while it waits, as by a server's time-out
            if not self._withdraw(turn):
                self.release()
            raise

    def release(self) -> None:
        """Give a slot back."""
        with self._lock:
            if self._waiters:
                self._waiters.popleft().release()
            else:
                self._value += 1

    def _withdraw(self, turn: threading.Lock) -> bool:
        """Stop waiting; return False if it got a slot before that."""
        with self._lock:
            if turn not in self._waiters:
                return False
            self._waiters.remove(turn)
            return True
