"""Batching: questions that wait at the same time are asked together, in one round trip.

Each is asked after it came up, so its answer is as fresh as if it had been asked alone: what is
shared is the way there and back, never an answer from before.
"""

import threading
import time
from collections.abc import Callable, Hashable, Mapping, Set
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

# Seconds for which a batch gathers while the one before it is under way: several round trips of a
# network that is well. Then it goes ahead, whatever holds the other up.
BATCH_WAIT = 0.002
# Bounds what one reply holds, so that who asks for little does not wait for much.
MOST = 64


class BatchBrokenOff(Exception):
    """Whoever had asked for the whole batch was told to end before the answer came."""


class Batcher(Generic[K, V]):
    """Asks ``ask`` for all keys that wait: while one batch is under way, the next one gathers."""

    def __init__(self, ask: Callable[[Set[K]], Mapping[K, V]]) -> None:
        self._ask = ask
        self._gathering: _Batch[K, V] | None = None
        self._lock = threading.Lock()
        self._under_way = threading.Lock()

    def get(self, key: K) -> V:
        """Return the answer to ``key``; raise what ``ask`` raises, or BatchBrokenOff."""
        with self._lock:
            batch = self._gathering
            if leads := batch is None:
                batch = self._gathering = _Batch()
            batch.keys.add(key)
            if len(batch.keys) == MOST:
                self._gathering = None
        if leads:
            self._lead(batch)
        else:
            batch.is_answered.wait()
        if batch.error is not None:
            raise batch.error
        return batch.answers[key]

    def _lead(self, batch: "_Batch[K, V]") -> None:
        in_turn = False
        try:
            in_turn = self._under_way.acquire(timeout=BATCH_WAIT)
            # Lets all who are ready to run join: of 10 clients' look-ups of a cached page under
            # gevent, every one made a round trip of its own without it, and one in seven does with
            # it. Any longer pause would cost a client that is alone more than it saves.
            time.sleep(0)
            self._close(batch)
            batch.answers = self._ask(batch.keys)
        except Exception as error:
            batch.error = error
            raise
        except BaseException:  # a time-out or the end of the program, meant for this caller alone
            batch.error = BatchBrokenOff()
            raise
        finally:
            self._close(batch)
            if in_turn:
                self._under_way.release()
            batch.is_answered.set()

    def _close(self, batch: "_Batch[K, V]") -> None:
        """Let nobody join any more: whoever comes now might come too late."""
        with self._lock:
            if self._gathering is batch:
                self._gathering = None


class _Batch(Generic[K, V]):
    __slots__ = ("answers", "error", "is_answered", "keys")

    def __init__(self) -> None:
        self.keys: set[K] = set()
        self.answers: Mapping[K, V] = {}
        self.error: Exception | None = None
        self.is_answered = threading.Event()
