"""The deadline: kept per thread, only ever shortened by ``within``."""

import math
import threading
from collections.abc import Iterator

import pytest

from user_service.resilience import deadline


class Clock:
    """Stands in for the ``time`` module: time passes when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr("user_service.resilience.deadline.time", clock)
    yield clock
    deadline.clear()


def test_outside_of_a_request_there_is_no_end(clock: Clock) -> None:
    assert deadline.remaining() == math.inf


def test_counts_down_to_zero_and_not_below(clock: Clock) -> None:
    deadline.start(5)
    assert deadline.remaining() == 5
    clock.now += 3
    assert deadline.remaining() == 2
    clock.now += 3
    assert deadline.remaining() == 0


def test_start_forgets_what_an_earlier_request_left(clock: Clock) -> None:
    deadline.start(1)
    deadline.start(5)
    assert deadline.remaining() == 5


def test_clear_takes_it_away(clock: Clock) -> None:
    deadline.start(5)
    deadline.clear()
    assert deadline.remaining() == math.inf


def test_within_shortens_for_its_block(clock: Clock) -> None:
    deadline.start(5)
    with deadline.within(2):
        assert deadline.remaining() == 2
        clock.now += 1
    assert deadline.remaining() == 4


def test_within_never_lengthens(clock: Clock) -> None:
    deadline.start(1)
    with deadline.within(60):
        assert deadline.remaining() == 1
        with deadline.within(30):
            assert deadline.remaining() == 1


def test_within_limits_work_outside_of_a_request(clock: Clock) -> None:
    with deadline.within(2):
        assert deadline.remaining() == 2
    assert deadline.remaining() == math.inf


def test_within_gives_the_outer_deadline_back_after_an_error(clock: Clock) -> None:
    deadline.start(5)
    with pytest.raises(KeyError), deadline.within(2):
        raise KeyError
    assert deadline.remaining() == 5


def test_another_thread_has_its_own(clock: Clock) -> None:
    deadline.start(5)
    seen: list[float] = []
    thread = threading.Thread(target=lambda: seen.append(deadline.remaining()))
    thread.start()
    thread.join()
    assert seen == [math.inf]


def test_postpone_moves_it_and_does_not_begin_one(clock: Clock) -> None:
    deadline.start(5)
    deadline.postpone(2)
    assert deadline.remaining() == 7
    deadline.clear()
    deadline.postpone(2)
    assert deadline.remaining() == math.inf
