"""The deadline: kept per thread, only ever shortened by ``within``."""

import math
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.unit.conftest import Clock
from user_service.resilience import deadline


@pytest.fixture(autouse=True)
def _time(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("user_service.resilience.deadline.time", clock)


def test_counts_down_to_zero_and_not_below_until_its_block_ends(clock: Clock) -> None:
    assert deadline.remaining() == math.inf
    with deadline.within(5):
        assert deadline.remaining() == 5
        clock.now += 3
        assert deadline.remaining() == 2
        clock.now += 3
        assert deadline.remaining() == 0
    assert deadline.remaining() == math.inf


def test_within_shortens_for_its_block_and_never_lengthens(clock: Clock) -> None:
    with deadline.within(5):
        with pytest.raises(KeyError), deadline.within(2):
            with deadline.within(60):
                assert deadline.remaining() == 2
            clock.now += 1
            raise KeyError
        assert deadline.remaining() == 4


def test_another_thread_has_its_own() -> None:
    with deadline.within(5), ThreadPoolExecutor(1) as thread:
        assert thread.submit(deadline.remaining).result() == math.inf


def test_postpone_moves_it_and_does_not_begin_one() -> None:
    with deadline.within(5):
        deadline.postpone(2)
        assert deadline.remaining() == 7
    deadline.postpone(2)
    assert deadline.remaining() == math.inf
