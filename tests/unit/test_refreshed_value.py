"""A value that ages is read again in the background, and the last one stands while that fails."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from pytest_mock import MockerFixture

from tests.unit.conftest import Clock
from tests.waiting import eventually
from user_service.errors import Unavailable
from user_service.resilience import deadline
from user_service.security.refreshed_value import RefreshedValue


class Source:
    """What is read: each read takes the next result, once the test lets it."""

    def __init__(self) -> None:
        self.value: object = "first"
        self.reads = 0
        self.may_end = threading.Event()
        self.may_end.set()

    def read(self) -> object:
        self.reads += 1
        value = self.value
        assert self.may_end.wait(30)
        if isinstance(value, Exception):
            raise value
        return value


@pytest.fixture
def source() -> Iterator[Source]:
    source = Source()
    yield source
    source.may_end.set()


@pytest.fixture
def values(source: Source, clock: Clock, mocker: MockerFixture) -> RefreshedValue[object]:
    mocker.patch("user_service.security.refreshed_value.LONGEST_WAIT", 5)
    return RefreshedValue(
        "values", source.read, refresh_after=10, wait_after=20, keep=100, clock=clock
    )


def settled(values: RefreshedValue[object]) -> None:
    """Wait for the end of the read under way."""
    reading = values.refresh(at_most_every=float("inf"))
    if reading is not None:
        reading.result(30)


def test_first_callers_wait_for_one_read(values: RefreshedValue[object], source: Source) -> None:
    source.may_end.clear()
    with ThreadPoolExecutor(5) as threads:
        asking = [threads.submit(values.get) for _ in range(5)]
        eventually(lambda: source.reads == 1)
        source.may_end.set()
        assert [each.result(30) for each in asking] == ["first"] * 5
    assert source.reads == 1


def test_value_is_read_again_in_the_background_and_nobody_waits(
    values: RefreshedValue[object], source: Source, clock: Clock, mocker: MockerFixture
) -> None:
    assert values.get() == "first"
    mocker.patch("user_service.security.refreshed_value.wait", side_effect=AssertionError("waits"))
    clock.now += 9.9
    assert (values.get(), source.reads) == ("first", 1)
    clock.now += 0.1
    source.value = "second"
    source.may_end.clear()
    assert [values.get() for _ in range(3)] == ["first"] * 3
    source.may_end.set()
    settled(values)
    assert (values.get(), source.reads) == ("second", 2)


def test_value_that_is_too_old_since_its_read_began_is_waited_for(
    values: RefreshedValue[object], source: Source, clock: Clock
) -> None:
    source.may_end.clear()
    values.refresh(at_most_every=0)
    clock.now += 30
    source.may_end.set()
    settled(values)
    source.value = "second"
    assert values.get() == "second"


def test_last_value_stands_while_reads_fail_and_nobody_waits_for_them(
    values: RefreshedValue[object],
    source: Source,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
    mocker: MockerFixture,
) -> None:
    caplog.set_level("INFO")
    values.get()
    source.value = OSError("the source is away")
    clock.now += 85
    assert values.get() == "first"
    waits = mocker.patch("user_service.security.refreshed_value.wait", side_effect=AssertionError)
    source.may_end.clear()  # the next attempt hangs
    clock.now += 1
    assert values.get() == "first"
    source.may_end.set()
    settled(values)
    source.may_end.clear()
    clock.now += 14
    with pytest.raises(Unavailable):
        values.get()
    source.may_end.set()
    settled(values)
    mocker.stop(waits)
    source.value = "second"
    clock.now += 1
    eventually(lambda: values.get() == "second")
    eventually(lambda: [record.levelname for record in caplog.records] == ["WARNING", "INFO"])
    assert "the source is away" in caplog.text


@pytest.mark.parametrize(("has_value", "idle"), [(True, 30), (True, 200), (False, 6)])
def test_value_is_waited_for_when_the_last_failure_is_long_ago(
    values: RefreshedValue[object], source: Source, clock: Clock, has_value: bool, idle: float
) -> None:
    """Without a value, some seconds are long."""
    if has_value:
        values.get()
    clock.now += 10
    source.value = OSError("the source is away")
    values.refresh()
    settled(values)
    source.value = "second"
    clock.now += idle
    source.may_end.clear()
    threading.Timer(0.05, source.may_end.set).start()
    assert values.get() == "second"


def test_failed_first_read_is_repeated_after_a_pause(
    values: RefreshedValue[object], source: Source, clock: Clock
) -> None:
    source.value = Unavailable("away")
    for _ in range(3):
        with pytest.raises(Unavailable):
            values.get()
    assert source.reads == 1
    source.value = "first"
    clock.now += 1
    with suppress(Unavailable):  # it begins the read and does not wait
        values.get()
    settled(values)
    assert (values.get(), source.reads) == ("first", 2)


def test_wait_ends_at_the_deadline(values: RefreshedValue[object], source: Source) -> None:
    source.may_end.clear()
    with deadline.within(0.01), pytest.raises(Unavailable):
        values.get()


def test_refresh_is_limited_and_an_equal_value_stays_the_same_object(
    values: RefreshedValue[object], source: Source, clock: Clock
) -> None:
    source.value = first = ["first"]
    assert values.get() is first
    source.value = ["first"]
    assert values.refresh(at_most_every=30) is None
    clock.now += 30
    reading = values.refresh(at_most_every=30)
    assert reading is not None
    reading.result(30)
    assert values.get() is first
    assert source.reads == 2
