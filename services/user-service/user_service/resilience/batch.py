"""Batching: what several requests ask of a server at the same time is asked in one round trip.

Each is asked after it came up, so its answer is as fresh as if it had been asked alone: what is
shared is the way there and back, never an answer from before.
"""

import threading
import time
from collections.abc import Callable, Hashable, Mapping, Set
from typing import Generic, TypeVar

from user_service.errors import DeadlineExceeded, TransientFailure
from user_service.resilience import deadline

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

# Seconds for which a batch gathers while the one before it is under way: several round trips of a
# network that is well. Then it goes ahead, whatever holds the other up.
BATCH_WAIT = 0.002
# Bounds what one reply holds, so that who asks for little does not wait for much.
MOST = 64


class Batcher(Generic[K, V]):
    """Asks ``ask`` for all keys that wait: while one batch is under way, the next one gathers."""

    def __init__(self, ask: Callable[[Set[K]], Mapping[K, V]]) -> None:
        self._ask = ask
        self._gathering: _Batch[K, V] | None = None
        self._lock = threading.Lock()
        self._under_way = threading.Lock()
        # Whether anybody came while another was at it, since the last batch was closed.
        self._has_company = False

    def get(self, key: K) -> V:
        """Return the answer to ``key``; raise what ``ask`` raises.

        Raise TransientFailure if whoever asked for the whole batch had to give up, and
        DeadlineExceeded if the answer takes longer than this caller may wait.
        """
        with self._lock:
            batch = self._gathering
            if leads := batch is None:
                batch = self._gathering = _Batch()
            batch.keys.add(key)
            if len(batch.keys) == MOST:
                self._gathering = None
            if not leads or self._under_way.locked():
                self._has_company = True
        if leads:
            self._lead(batch)
        else:
            batch.wait()
        if batch.error is not None:
            raise batch.error
        return batch.answers[key]

    def _lead(self, batch: "_Batch[K, V]") -> None:
        in_turn = False
        try:
            in_turn = self._under_way.acquire(timeout=BATCH_WAIT)
            if self._has_company:
                # Lets all who are ready to run join: of 10 clients' look-ups of a cached page under
                # gevent, every one made a round trip of its own without it, and one in seven does
                # with it. Any longer pause would cost a client more than it saves, and so would
                # this one cost a client that is alone: with threads it takes 55 us.
                self._has_company = False
                time.sleep(0)
            self._close(batch)
            batch.answers = self._ask(batch.keys)
        except DeadlineExceeded:  # that our time is up is not so for the others
            batch.error = TransientFailure("what others asked for as well was broken off")
            raise
        except Exception as error:
            batch.error = error
            raise
        except BaseException:  # a time-out or the end of the program, meant for this caller alone
            batch.error = TransientFailure("what others asked for as well was broken off")
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
    __slots__ = ("answers", "error", "expiry", "is_answered", "keys")

    def __init__(self) -> None:
        self.expiry = deadline.expiry()  # of whoever asks for it
        self.keys: set[K] = set()
        self.answers: Mapping[K, V] = {}
        self.error: Exception | None = None
        self.is_answered = threading.Event()

    def wait(self) -> None:
        # To wait with a time-out of one's own takes a tenth of a cached page's time. Who has as
        # long as the one who asks, as nearly all have, needs none.
        if deadline.expiry() >= self.expiry:
            self.is_answered.wait()
        elif not self.is_answered.wait(deadline.remaining()):
            raise DeadlineExceeded("what others asked for at the same time takes too long")
