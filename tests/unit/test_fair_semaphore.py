"""The fair semaphore: FIFO, never overtaken, no slot lost."""

import subprocess
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.waiting import eventually
from user_service.resilience.fair_semaphore import FairSemaphore

SERVICE = Path(__file__).parents[2] / "services" / "user-service"
LONG = 30.0  # seconds


def waiting(
    semaphore: FairSemaphore, threads: ThreadPoolExecutor, number: int = 1
) -> list[Future[bool]]:
    """Return ``number`` callers that wait for a slot, in the order of their arrival."""
    waits = []
    for _ in range(number):
        waits.append(threads.submit(semaphore.acquire, LONG))
        eventually(lambda: semaphore.waiting == len(waits))
    return waits


def test_hands_out_as_many_slots_as_it_has() -> None:
    semaphore = FairSemaphore(2)
    assert [semaphore.acquire() for _ in range(3)] == [True, True, False]
    semaphore.release()
    assert semaphore.acquire(0.01)
    assert not semaphore.acquire(0.01)


def test_longest_waiting_caller_is_next() -> None:
    semaphore = FairSemaphore(0)
    with ThreadPoolExecutor(3) as threads:
        waits = waiting(semaphore, threads, 3)
        for number, each in enumerate(waits):
            semaphore.release()
            assert each.result(LONG)
            assert not any(later.done() for later in waits[number + 1 :])


def test_new_caller_does_not_overtake_a_waiting_one() -> None:
    semaphore = FairSemaphore(0)
    with ThreadPoolExecutor(1) as threads:
        (first,) = waiting(semaphore, threads)
        semaphore.release()
        # Whether or not the other thread runs by now.
        assert not semaphore.acquire()
        assert first.result(LONG)


def test_caller_that_gave_up_leaves_its_slot() -> None:
    semaphore = FairSemaphore(0)
    assert not semaphore.acquire(0.01)
    semaphore.release()
    assert semaphore.acquire()


def test_slot_that_arrives_with_the_time_out_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    semaphore = FairSemaphore(0)

    class LateTurn:
        """A lock whose time is up just before it is released."""

        def acquire(self, timeout: float | None = None) -> bool:
            if timeout is not None:
                semaphore.release()
            return timeout is None

        def release(self) -> None: ...

    monkeypatch.setattr(threading, "Lock", LateTurn)
    assert semaphore.acquire(LONG)
    assert not semaphore.acquire()


@pytest.mark.parametrize("handed_over", [False, True])
def test_caller_that_is_ended_while_it_waits_loses_no_slot(handed_over: bool) -> None:
    """A server may end a request that takes too long, as gevent kills a greenlet."""
    program = """
from gevent import monkey; monkey.patch_all()
import gevent, sys
from user_service.resilience.fair_semaphore import FairSemaphore

semaphore = FairSemaphore(0)
waits = gevent.spawn(semaphore.acquire, 30)
gevent.sleep(0)
if sys.argv[1] == "True":
    semaphore.release()
waits.kill()
if sys.argv[1] == "False":
    semaphore.release()
# Or it was given the slot before it was ended.
assert semaphore.acquire() or waits.value is True
assert semaphore.waiting == 0
"""
    command = [sys.executable, "-c", program, str(handed_over)]
    subprocess.run(command, check=True, timeout=LONG, cwd=SERVICE)
