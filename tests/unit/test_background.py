"""Work in the background: once for all callers, waited for within bounds, repeated on failure."""

import math
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from user_service.errors import ConnectionLost, NotPrepared, Unavailable
from user_service.resilience import deadline
from user_service.resilience.background import Preparation

LONG = 30.0  # seconds


class Work:
    """Notes each run with its deadline, waits until it may go on, and raises its failures."""

    def __init__(self, *failures: Exception) -> None:
        self.deadlines: list[float] = []
        self.go_on = threading.Event()
        self._failures = list(failures)

    def __call__(self) -> None:
        self.deadlines.append(deadline.remaining())
        assert self.go_on.wait(LONG)
        if self._failures:
            raise self._failures.pop()


@pytest.mark.parametrize(
    ("failure", "raised"),
    [
        (ConnectionLost("refused"), ConnectionLost),
        (Unavailable("pending"), Unavailable),
        (ValueError("no such column"), NotPrepared),
        (OSError("no such file"), NotPrepared),
    ],
    ids=repr,
)
def test_failure_is_raised_and_the_next_caller_begins_again_until_it_has_succeeded(
    failure: Exception, raised: type[Exception]
) -> None:
    work = Work(failure, failure)
    work.go_on.set()
    preparation = Preparation("the database", work)
    for _ in range(2):
        with pytest.raises(raised):
            preparation.ensure(LONG)
    for _ in range(2):
        preparation.ensure(LONG)
    assert len(work.deadlines) == 3


@pytest.mark.parametrize(("timeout", "left"), [(0.01, LONG), (LONG, 0.01)])
def test_wait_is_bounded_and_the_work_goes_on(timeout: float, left: float) -> None:
    work = Work()
    preparation = Preparation("the database", work)
    for _ in range(3):
        with deadline.within(left), pytest.raises(Unavailable, match="still being prepared"):
            preparation.ensure(timeout)
    work.go_on.set()
    preparation.ensure(LONG)
    assert work.deadlines == [math.inf]  # once, and without the deadline of a caller


def test_concurrent_callers_share_one_run() -> None:
    work, number = Work(), 8
    preparation = Preparation("the database", work)
    together = threading.Barrier(number + 1, timeout=LONG)

    def ask(_: int) -> None:
        together.wait()
        preparation.ensure(LONG)

    with ThreadPoolExecutor(number) as threads:
        asking = threads.map(ask, range(number))
        together.wait()
        work.go_on.set()
        list(asking)
    assert len(work.deadlines) == 1
