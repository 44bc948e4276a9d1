"""Work in the background: once for all callers, waited for within bounds, repeated on failure."""

import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
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
        (ValueError("no such column"), NotPrepared),
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


@pytest.mark.parametrize("fails", [False, True])
def test_concurrent_callers_share_one_run_which_is_logged_once_if_it_fails(
    caplog: pytest.LogCaptureFixture, fails: bool
) -> None:
    go_on, number = threading.Event(), 8

    def run() -> None:
        assert go_on.wait(LONG)
        if fails:
            raise ValueError("no such column")

    work = Mock(side_effect=run)
    preparation = Preparation("the database", work)
    together = threading.Barrier(number + 1, timeout=LONG)

    def ask() -> None:
        together.wait()
        preparation.ensure(LONG)

    with ThreadPoolExecutor(number) as threads:
        asking = [threads.submit(ask) for _ in range(number)]
        together.wait()
        time.sleep(0.1)  # the callers begin to wait
        go_on.set()
    assert {type(each.exception()) for each in asking} == {NotPrepared if fails else type(None)}
    assert work.call_count == 1 or fails  # who came too late for a failure has begun again
    assert len(caplog.records) == (work.call_count if fails else 0)
