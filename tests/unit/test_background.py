"""Work in the background: once for all callers, waited for within bounds, repeated on failure."""

import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from unittest.mock import Mock

import pytest

from tests.waiting import LONG
from user_service.errors import ConnectionLost, NotPrepared, Unavailable
from user_service.resilience import deadline
from user_service.resilience.background import Preparation


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
    work = Mock(side_effect=[failure, failure, None])
    preparation = Preparation("the database", work)
    for _ in range(2):
        with pytest.raises(raised):
            preparation.ensure(LONG)
    for _ in range(2):
        preparation.ensure(LONG)
    assert work.call_count == 3


@pytest.mark.parametrize(("timeout", "left"), [(0.01, LONG), (LONG, 0.01)])
def test_wait_is_bounded_and_the_work_goes_on(timeout: float, left: float) -> None:
    go_on, deadlines = threading.Event(), []

    def work() -> None:
        deadlines.append(deadline.remaining())
        assert go_on.wait(LONG)

    preparation = Preparation("the database", work)
    for _ in range(3):
        with deadline.within(left), pytest.raises(Unavailable, match="still being prepared"):
            preparation.ensure(timeout)
    go_on.set()
    preparation.ensure(LONG)
    assert deadlines == [math.inf]  # once, and without the deadline of a caller


def test_concurrent_callers_share_one_run() -> None:
    go_on, number = threading.Event(), 8
    work = Mock(side_effect=partial(go_on.wait, LONG))
    preparation = Preparation("the database", work)
    together = threading.Barrier(number + 1, timeout=LONG)

    def ask(_: int) -> None:
        together.wait()
        preparation.ensure(LONG)

    with ThreadPoolExecutor(number) as threads:
        asking = threads.map(ask, range(number))
        together.wait()
        go_on.set()
        list(asking)
    assert work.call_count == 1


def test_each_failed_run_is_logged_once_however_many_callers_wait_for_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    go_on, number = threading.Event(), 8
    work = Mock(side_effect=lambda: go_on.wait(LONG) and int("no number"))
    preparation = Preparation("the database", work)
    together = threading.Barrier(number + 1, timeout=LONG)

    def ask(_: int) -> None:
        together.wait()
        with pytest.raises(NotPrepared):
            preparation.ensure(LONG)

    with ThreadPoolExecutor(number) as threads:
        asking = threads.map(ask, range(number))
        together.wait()
        time.sleep(0.1)  # the callers begin to wait
        go_on.set()
        list(asking)
    assert len(caplog.records) == work.call_count
