"""A value that ages: it is read again in the background, and kept while that fails."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Generic, TypeVar

from user_service.errors import Unavailable
from user_service.observability.outage import Outage
from user_service.resilience import deadline
from user_service.resilience.background import in_background

T = TypeVar("T")

# Seconds: the longest wait for a read, and the least time between the beginnings of two.
LONGEST_WAIT = 2.0
SHORTEST_INTERVAL = 1.0


class RefreshedValue(Generic[T]):
    """The last result of ``read``, which runs once at a time. All times are in seconds.

    ``get`` returns a value that is younger than ``wait_after`` at once. If the value is as old as
    ``refresh_after``, ``get`` also begins a read in the background. If it is as old as
    ``wait_after``, or there is none, ``get`` waits for that read, at most LONGEST_WAIT. It does not
    wait if a read has failed within the last ``wait_after`` seconds; if none has succeeded yet,
    within the last LONGEST_WAIT seconds.

    While reads fail, the old value is used until it is as old as ``keep``. If a read returns an
    equal value, the old one stays, and is as young as the new one.
    """

    def __init__(  # noqa: PLR0913 -- the others are keywords
        self,
        name: str,
        read: Callable[[], T],
        *,
        refresh_after: float,
        wait_after: float,
        keep: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._read = read
        self._refresh_after = refresh_after
        self._wait_after = wait_after
        self._keep = keep
        self._clock = clock
        self._outage = Outage(f"{name} cannot be read, known ones stay", f"{name} read again")
        self._lock = threading.Lock()
        self._known: tuple[T, float] | None = None
        self._reading: Future[None] | None = None
        self._began = self._failed = float("-inf")

    def get(self) -> T:
        """Return the value; raise Unavailable if there is none, or only one that is too old."""
        if (known := self._known) is not None and self._age(known) < self._refresh_after:
            return known[0]
        reading = self.refresh(at_most_every=SHORTEST_INTERVAL)
        if known is not None and self._age(known) < self._wait_after:
            return known[0]
        after_failure = LONGEST_WAIT if known is None else self._wait_after
        if reading is not None and self._clock() - self._failed >= after_failure:
            time_left = self._began + LONGEST_WAIT - self._clock()
            wait([reading], min(max(0.0, time_left), deadline.remaining()))
        known = self._known
        if known is None or self._age(known) >= self._keep:
            raise Unavailable(f"{self._name} cannot be read")
        return known[0]

    def refresh(self, *, at_most_every: float = 0) -> "Future[None] | None":
        """Return the read under way. If there is none, begin one ``at_most_every`` so often."""
        with self._lock:
            if self._reading is None or self._reading.done():
                self._reading = None
                if self._clock() - self._began >= at_most_every:
                    self._began = self._clock()
                    self._reading = in_background(self._read_once)
            return self._reading

    def _age(self, known: tuple[T, float]) -> float:
        return self._clock() - known[1]

    def _read_once(self) -> None:
        began, known = self._began, self._known
        try:
            value = self._read()
        except Exception as error:  # noqa: BLE001 -- whatever it is, the last value stands
            self._failed = self._clock()
            self._outage.begin(error)
        else:
            if known is not None and known[0] == value:
                value = known[0]  # it carries what was derived from it
            self._known = (value, began)
            self._outage.end()
