"""The deadline: kept per thread, only ever shortened by ``within``."""

import math
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.unit.conftest import Clock
from user_service.resilience import deadline


@pytest.fixture(autouse=True)
def _time(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("user_service.resilience.deadline.time", clock)


def test_counts_down_to_zero_and_not_below(clock: Clock) -> None:
    assert deadline.remaining() == math.inf
    deadline.start(5)
    assert deadline.remaining() == 5
    clock.now += 3
    assert deadline.remaining() == 2
    clock.now += 3
    assert deadline.remaining() == 0


def test_start_forgets_what_an_earlier_request_left_and_clear_takes_it_away() -> None:
    deadline.start(1)
    deadline.start(5)
    assert deadline.remaining() == 5
    deadline.clear()
    assert deadline.remaining() == math.inf


def test_within_shortens_for_its_block_and_never_lengthens(clock: Clock) -> None:
    deadline.start(5)
    with deadline.within(2):
        assert deadline.remaining() == 2
        with deadline.within(60):
            assert deadline.remaining() == 2
        clock.now += 1
    assert deadline.remaining() == 4


def test_within_limits_work_outside_of_a_request() -> None:
    with deadline.within(2):
        assert deadline.remaining() == 2
    assert deadline.remaining() == math.inf


def test_within_gives_the_outer_deadline_back_after_an_error() -> None:
    deadline.start(5)
    with pytest.raises(KeyError), deadline.within(2):
        raise KeyError
    assert deadline.remaining() == 5


def test_another_thread_has_its_own() -> None:
    deadline.start(5)
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(deadline.remaining).result() == math.inf


def test_postpone_moves_it_and_does_not_begin_one() -> None:
    deadline.start(5)
    deadline.postpone(2)
    assert deadline.remaining() == 7
    deadline.clear()
    deadline.postpone(2)
    assert deadline.remaining() == math.inf
