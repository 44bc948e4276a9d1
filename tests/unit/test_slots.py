"""Slots: handed on in the order of arrival, never overtaken, never lost."""

import subprocess
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.waiting import eventually
from user_service.database.fair_semaphore import Slots

SERVICE = Path(__file__).parents[2] / "services" / "user-service"
LONG = 30.0  # seconds


def waiting(slots: Slots, threads: ThreadPoolExecutor, number: int = 1) -> list[Future[bool]]:
    """Return ``number`` waits for a slot, in the order in which they stand in line."""
    waits = []
    for _ in range(number):
        waits.append(threads.submit(slots.wait, LONG))
        eventually(lambda: slots.waiting == len(waits))
    return waits


def test_no_more_are_taken_than_there_are() -> None:
    slots = Slots(2)
    assert [slots.take_free() for _ in range(3)] == [True, True, False]
    slots.give_back()
    assert slots.free == 1
    assert slots.wait(0)
    assert not slots.wait(0)


def test_who_waits_longest_is_next() -> None:
    slots = Slots(1)
    assert slots.take_free()
    with ThreadPoolExecutor(3) as threads:
        waits = waiting(slots, threads, 3)
        for number, each in enumerate(waits):
            slots.give_back()
            assert each.result(LONG)
            assert not any(later.done() for later in waits[number + 1 :])


def test_who_comes_does_not_overtake_who_waits() -> None:
    slots = Slots(1)
    assert slots.take_free()
    with ThreadPoolExecutor(1) as threads:
        (first,) = waiting(slots, threads)
        slots.give_back()
        # Whether or not the other has been woken up by now.
        assert not slots.take_free()
        assert not slots.wait(0)
        assert first.result(LONG)


def test_who_gives_up_is_not_handed_any() -> None:
    slots = Slots(1)
    assert slots.take_free()
    assert not slots.wait(0.01)
    slots.give_back()
    assert slots.take_free()


def test_what_is_handed_over_in_the_last_moment_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    slots = Slots(1)
    assert slots.take_free()

    class LateTurn:
        """A lock whose time is up just before it is let go."""

        def acquire(self, timeout: float | None = None) -> bool:
            if timeout is not None:
                slots.give_back()
            return timeout is None

        def release(self) -> None: ...

    monkeypatch.setattr(threading, "Lock", LateTurn)
    assert slots.wait(LONG)
    assert slots.free == 0


@pytest.mark.parametrize("handed_over", [False, True])
def test_whoever_is_ended_while_waiting_leaves_no_gap(handed_over: bool) -> None:
    """As gunicorn's worker ends a request that takes too long."""
    program = """
from gevent import monkey; monkey.patch_all()
import gevent, sys
from user_service.database.fair_semaphore import Slots

slots = Slots(1)
assert slots.take_free()
waits = gevent.spawn(slots.wait, 30)
gevent.sleep(0)
if sys.argv[1] == "True":
    slots.give_back()
waits.kill()
if sys.argv[1] == "False":
    slots.give_back()
# Or it came to have it before it was ended.
assert slots.free + (waits.value is True) == 1, (slots.free, waits.value)
assert not slots._line
"""
    command = [sys.executable, "-c", program, str(handed_over)]
    subprocess.run(command, check=True, timeout=LONG, cwd=SERVICE)
