"""Stages: the parts of a request's time."""

import time

import pytest

from user_service.observability import server_timing
from user_service.observability.server_timing import stage


class Histogram:
    def __init__(self) -> None:
        self.observed: list[float] = []

    def observe(self, amount: float, /) -> None:
        self.observed.append(amount)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the time in seconds, which the test advances."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_stage_within_another_is_not_counted_twice(clock: list[float]) -> None:
    server_timing.begin()
    with stage("sql"):
        clock[0] += 1
        with stage("json"):
            clock[0] += 2
            with stage("cache"):
                clock[0] += 4
        clock[0] += 8
        with stage("json"):
            clock[0] += 16
    with stage("cache"):
        clock[0] += 32
    assert server_timing.end() == {"cache": 36, "json": 18, "sql": 9}


def test_stage_that_fails_is_counted(clock: list[float]) -> None:
    server_timing.begin()
    with pytest.raises(ZeroDivisionError), stage("sql"):
        clock[0] += 1
        raise ZeroDivisionError
    assert server_timing.end() == {"sql": 1}


def test_request_begins_with_nothing(clock: list[float]) -> None:
    server_timing.begin()
    with stage("sql"):
        clock[0] += 1
    server_timing.begin()
    assert server_timing.end() == {}


@pytest.mark.parametrize("is_on", [True, False])
def test_histogram_gets_the_whole_stage(clock: list[float], is_on: bool) -> None:
    histogram = Histogram()
    if is_on:
        server_timing.begin()
    with stage("pool", histogram):
        clock[0] += 1
        with stage("sql"):
            clock[0] += 2
    assert histogram.observed == [3]
    assert server_timing.end() == ({"sql": 2, "pool": 1} if is_on else {})
