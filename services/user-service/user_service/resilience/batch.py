"""Batching: what several requests ask of a server at the same time is asked in one round trip.

Each is asked after it came up, so its answer is as fresh as if it had been asked alone: what is
shared is the way there and back, never an answer from before.
"""

import threading
import time
from collections.abc import Callable, Hashable, Mapping, Set
from typing import Generic, TypeVar

from user_service.errors import (
    DeadlineExceeded,
    OutcomeUnknown,
    TransientFailure,
    Unavailable,
)
from user_service.resilience import deadline

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

# Seconds for which a batch gathers while the one before it is under way: several round trips of a
# network that is well. Then it goes ahead, whatever holds the other up.
BATCH_WAIT = 0.002
# Bounds what one reply holds, so that who asks for little does not wait for much.
MOST = 64

_BROKEN_OFF = "what others asked for at the same time was broken off"


class Batcher(Generic[K, V]):
    """Asks ``ask`` for all keys that wait: while one batch is under way, the next one gathers."""

    def __init__(
        self,
        ask: Callable[[Set[K]], Mapping[K, V]],
        *,
        until_deadline: bool = True,
        is_write: bool = False,
    ) -> None:
        """With ``until_deadline``, nobody waits past the own deadline for what others ask for.

        Without it, the time that ``ask`` takes must be bounded by something else. With
        ``is_write``, whoever stops waiting, or waited for one who was told to end, raises
        OutcomeUnknown: it may be done nevertheless.
        """
        self._ask = ask
        self._is_write = is_write
        self._until_deadline = until_deadline
        self._gathering: _Batch[K, V] | None = None
        self._lock = threading.Lock()
        self._under_way = threading.Lock()
        # Whether anybody came while another was at it, since the last batch was closed.
        self._has_company = False

    def get(self, key: K) -> V:
        """Return the answer to ``key``; raise what ``ask`` raises, or DeadlineExceeded.

        What failed in passing while another asked is asked for once more, together: many who
        share one connection would otherwise need as many retries when it is lost.
        """
        for may_ask_again in (True, False):
            batch, leads = self._join(key)
            try:
                if leads:
                    self._lead(batch)
                else:
                    self._wait_for(batch)
                    if may_ask_again and isinstance(batch.error, TransientFailure):
                        continue
                return batch.answer_to(key)
            finally:
                del batch  # or an error's traceback would keep, by it, what everybody has asked
        raise AssertionError("unreachable: the second time returns or raises")

    def _join(self, key: K) -> "tuple[_Batch[K, V], bool]":
        """Return the batch that gathers, with ``key`` in it, and whether this caller leads it."""
        with self._lock:
            batch = self._gathering
            if leads := batch is None:
                batch = self._gathering = _Batch()
            batch.keys.add(key)
            if len(batch.keys) == MOST:
                self._gathering = None
            if not leads or self._under_way.locked():
                self._has_company = True
            return batch, leads

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
        except OutcomeUnknown as error:
            batch.error = error
            raise
        except Unavailable as error:
            # That our own time is up, whatever that led to, is not so for the others.
            is_ours = isinstance(error, DeadlineExceeded) or not deadline.remaining()
            batch.error = TransientFailure(_BROKEN_OFF) if is_ours else error
            raise
        except Exception as error:
            batch.error = error
            raise
        except BaseException:  # a time-out or the end of the program, meant for this caller alone
            failure = OutcomeUnknown if self._is_write else TransientFailure
            batch.error = failure(_BROKEN_OFF)
            raise
        finally:
            self._close(batch)
            if in_turn:
                self._under_way.release()
            batch.is_answered.set()
            del batch

    def _wait_for(self, batch: "_Batch[K, V]") -> None:
        # A time-out of one's own takes a twelfth of the requests/s of 50 clients (measured on
        # cached pages). Who has as long as the one who asks, as nearly all have, needs none.
        if not self._until_deadline or deadline.expiry() >= batch.expiry:
            batch.is_answered.wait()
        elif not batch.is_answered.wait(deadline.remaining()):
            failure = OutcomeUnknown if self._is_write else DeadlineExceeded
            raise failure("what others asked for at the same time takes too long")

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

    def answer_to(self, key: K) -> V:
        if self.error is None:
            return self.answers[key]
        try:
            raise self.error.with_traceback(None)  # or it would grow with everybody who raises it
        finally:
            del self
