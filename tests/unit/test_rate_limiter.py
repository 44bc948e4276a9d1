"""The state of a window: how many requests remain, and how long until the next one passes."""

import math

from hypothesis import assume, given
from hypothesis import strategies as st

from user_service.web.policies.rate_limiter import ROUNDING, Counts, Limit, Window, window


def passes(limit: Limit, counts: Counts) -> bool:
    """Tell what the sliding window counter says to one request more."""
    before = math.floor(counts.previous * counts.previous_seconds / limit.seconds)
    return before + counts.current + 1 <= limit.amount


def later(limit: Limit, counts: Counts, seconds: float) -> Counts:
    """Return the counts after ``seconds`` without a request."""
    ends_in = counts.current_seconds - limit.seconds
    if seconds < ends_in:
        return counts._replace(
            previous_seconds=max(0.0, counts.previous_seconds - seconds),
            current_seconds=counts.current_seconds - seconds,
        )
    left = max(0.0, counts.current_seconds - seconds)
    return Counts(counts.current, left, 0, left + limit.seconds)


@st.composite
def situations(draw: st.DrawFn, *, full: bool) -> tuple[Limit, Counts]:
    limit = Limit("default", draw(st.integers(1, 1000)), draw(st.sampled_from([1, 60, 3600])))
    ends_in = draw(st.integers(1, limit.seconds * 1000)) / 1000
    previous = draw(st.integers(0, limit.amount))
    previous_seconds = ends_in if previous else 0.0
    free = limit.amount - math.floor(previous * previous_seconds / limit.seconds)
    assume(full or free > 0)
    current = draw(st.integers(free, limit.amount) if full else st.integers(0, free - 1))
    return limit, Counts(previous, previous_seconds, current, ends_in + limit.seconds)


@given(situations(full=True))
def test_request_passes_after_the_stated_wait_and_no_earlier(
    situation: tuple[Limit, Counts],
) -> None:
    limit, counts = situation
    assert not passes(limit, counts)
    told = window(limit, counts, passes=False)
    assert told.remaining == 0
    assert passes(limit, later(limit, counts, told.seconds))
    assert not passes(limit, later(limit, counts, told.seconds - 1 - 2 * ROUNDING))


@given(situations(full=False))
def test_as_many_requests_as_remain_pass(situation: tuple[Limit, Counts]) -> None:
    limit, counts = situation
    assert passes(limit, counts)
    told = window(limit, counts, passes=True)
    assert told.remaining >= 1
    assert told.seconds >= 1
    last = counts._replace(current=counts.current + told.remaining - 1)
    assert passes(limit, last)
    assert not passes(limit, last._replace(current=last.current + 1))


def test_refused_request_is_told_no_remaining_ones_even_if_the_window_has_moved_on() -> None:
    """The counts are read after the refusal."""
    counts = Counts(previous=5, previous_seconds=59.9, current=0, current_seconds=119.9)
    assert window(Limit("default", 5, 60), counts, passes=False) == Window(False, 0, 1)
