"""Batching: those who wait at the same time share a round trip, and never an answer from before."""

import gc
import itertools
import os
import subprocess
import sys
import threading
import time
import traceback
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from tests.waiting import eventually
from user_service.errors import ConnectionLost, OutcomeUnknown
from user_service.resilience import batch, deadline
from user_service.resilience.batch import COMPANY, PAUSES, Batcher

SERVICE = Path(__file__).parents[2] / "services" / "user-service"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(SERVICE)}  # for programs that import the package
LONG = 30.0  # seconds: nobody who does as they should waits for so long


class Server:
    """Answers each key with how many questions it was asked so far, when the test lets it.

    ``errors`` are raised instead, by the number of the question, from 1.
    """

    def __init__(self) -> None:
        self.questions: list[frozenset[str]] = []
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.errors: dict[int, BaseException] = {}

    def ask(self, keys: Set[str]) -> Mapping[str, int]:
        self.questions.append(frozenset(keys))
        number = len(self.questions)
        assert self.may_answer.wait(LONG)
        if number in self.errors:
            raise self.errors.pop(number)
        return dict.fromkeys(keys, number)


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def batcher(server: Server, monkeypatch: pytest.MonkeyPatch) -> Batcher[str, int]:
    monkeypatch.setattr(batch, "BATCH_WAIT", LONG)
    return Batcher(server.ask)


@pytest.fixture
def threads(server: Server) -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(100) as threads:
        yield threads
        server.may_answer.set()


@pytest.fixture
def held_up(
    server: Server, batcher: Batcher[str, int], threads: ThreadPoolExecutor
) -> Callable[..., Future[int]]:
    """Ask for a key, and return when the question is under way; it is answered later."""

    def begin(key: str = "first") -> Future[int]:
        server.may_answer.clear()
        asked = len(server.questions)
        answer = threads.submit(batcher.get, key)
        eventually(lambda: len(server.questions) > asked)
        return answer

    return begin


def gathered(batcher: Batcher[str, int], number: int) -> bool:
    gathering = batcher._gathering
    return gathering is not None and len(gathering.keys) == number


@pytest.fixture
def together(
    batcher: Batcher[str, int], threads: ThreadPoolExecutor, held_up: Callable[..., Future[int]]
) -> Callable[..., list[Future[int]]]:
    """Ask for keys that wait to be asked together, in the second question."""

    def begin(keys: Iterable[str]) -> list[Future[int]]:
        held_up()
        answers = [threads.submit(batcher.get, key) for key in keys]
        eventually(lambda: gathered(batcher, len(answers)))
        return answers

    return begin


def keys(number: int) -> Iterator[str]:
    return (f"key {n}" for n in range(number))


def test_returns_the_answer_to_the_key(batcher: Batcher[str, int], server: Server) -> None:
    assert batcher.get("a") == 1
    assert batcher.get("b") == 2
    assert server.questions == [{"a"}, {"b"}]


def test_those_who_come_while_one_is_under_way_are_asked_together(
    batcher: Batcher[str, int],
    server: Server,
    threads: ThreadPoolExecutor,
    held_up: Callable[..., Future[int]],
) -> None:
    first = held_up()
    others = [threads.submit(batcher.get, f"key {n % 5}") for n in range(20)]
    eventually(lambda: gathered(batcher, 5))
    server.may_answer.set()
    assert first.result(LONG) == 1
    assert [each.result(LONG) for each in others] == [2] * 20
    assert server.questions == [{"first"}, {f"key {n}" for n in range(5)}]


def test_nobody_gets_the_answer_to_a_question_from_before_they_came(
    batcher: Batcher[str, int],
    server: Server,
    threads: ThreadPoolExecutor,
    held_up: Callable[..., Future[int]],
) -> None:
    first = held_up("same")
    second = threads.submit(batcher.get, "same")
    eventually(lambda: gathered(batcher, 1))
    server.may_answer.set()
    assert (first.result(LONG), second.result(LONG)) == (1, 2)


def test_failure_is_raised_for_the_whole_batch_and_forgotten(
    batcher: Batcher[str, int], server: Server, together: Callable[..., list[Future[int]]]
) -> None:
    server.errors[2] = KeyError("it")
    others = together(keys(3))
    server.may_answer.set()
    for each in others:
        with pytest.raises(KeyError, match="it"):
            each.result(LONG)
    assert batcher.get("key 0") == 3


def test_who_is_told_to_end_while_asking_lets_the_others_go(
    batcher: Batcher[str, int], server: Server, together: Callable[..., list[Future[int]]]
) -> None:
    server.errors[2] = SystemExit("told to end")
    others = together(keys(3))
    server.may_answer.set()
    assert [str(error) for each in others if (error := each.exception(LONG))] == ["told to end"]
    assert batcher.get("key 0") > 2


def test_who_wrote_through_one_who_was_told_to_end_does_not_know_the_outcome(
    batcher: Batcher[str, int],
    server: Server,
    together: Callable[..., list[Future[int]]],
) -> None:
    batcher._is_write = True
    server.errors[2] = SystemExit("told to end")
    others = together(keys(3))
    server.may_answer.set()
    ends = Counter(type(each.exception(LONG)) for each in others)
    assert ends == {SystemExit: 1, OutcomeUnknown: 2}
    assert len(server.questions) == 2


def test_who_is_told_to_end_while_waiting_for_the_turn_leaves_nothing_behind(
    batcher: Batcher[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted:
        def locked(self) -> bool:
            return False

        def acquire(self, **_: float) -> bool:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(batcher, "_under_way", Interrupted())
        with suppress(KeyboardInterrupt):
            batcher.get("a")
    assert batcher.get("a") == 1


def test_greenlet_that_is_killed_or_timed_out_lets_the_others_go() -> None:
    """As gunicorn's worker does; in a process of its own, since gevent patches all of it."""
    program = """
from gevent import monkey; monkey.patch_all()
import gevent, sys
from user_service.resilience.batch import Batcher

def ask(keys):
    gevent.sleep(0.2)
    return dict.fromkeys(keys, 1)

def lead():
    with gevent.Timeout(float(sys.argv[1]), False):
        batcher.get("a")

batcher = Batcher(ask)
gevent.spawn(batcher.get, "earlier"); gevent.sleep(0.05)  # so that the next one gathers
leader = gevent.spawn(lead); gevent.sleep(0)
follower = gevent.spawn(batcher.get, "b"); gevent.sleep(0)
if sys.argv[2] == "killed":
    gevent.spawn_later(float(sys.argv[1]) / 2, leader.kill, block=False)
print(follower.get(timeout=10), batcher.get("c"))
"""
    # Seconds: while it waits for its turn, and while it asks.
    for seconds in ("0.001", "0.1"):
        for how in ("killed", "timed out"):
            command = [sys.executable, "-c", program, seconds, how]
            done = subprocess.run(
                command, capture_output=True, text=True, check=True, timeout=60, env=ENVIRONMENT
            )
            assert done.stdout == "1 1\n"


def test_greenlets_that_are_ready_are_asked_for_together() -> None:
    """Though asking lets nobody else run, which is how it is with an answer that comes at once."""
    program = """
from gevent import monkey; monkey.patch_all()
import gevent
from user_service.resilience.batch import Batcher

def ask(keys):
    asked.append(len(keys))
    if len(asked) == 1:
        gevent.sleep(0)  # the others come meanwhile: from now on, nobody is alone
    return dict.fromkeys(keys, 1)

def client(key):
    for _ in range(5):
        batcher.get(key)
        gevent.sleep(0)

asked = []
batcher = Batcher(ask)
gevent.joinall([gevent.spawn(client, key) for key in range(9)], raise_error=True)
print(sum(asked), len(asked))
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=60, env=ENVIRONMENT
    )
    questions, round_trips = map(int, done.stdout.split())
    assert questions == 45
    assert round_trips <= 10


def test_who_is_alone_pauses_for_nobody(
    batcher: Batcher[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("paused"))
    for _ in range(3):
        batcher.get("a")


def test_who_was_in_company_pauses_for_a_few_batches_and_then_no_more(
    batcher: Batcher[str, int],
    server: Server,
    threads: ThreadPoolExecutor,
    held_up: Callable[..., Future[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    first = held_up()
    second = threads.submit(batcher.get, "second")
    eventually(lambda: gathered(batcher, 1))
    server.may_answer.set()
    first.result(LONG)
    second.result(LONG)
    for _ in range(COMPANY + 5):
        batcher.get("third")
    assert pauses.count(0) == COMPANY  # all others are the test's own


@pytest.mark.parametrize("coming", [0, 3, PAUSES, PAUSES + 3])
def test_batch_gathers_until_nobody_comes_any_more_or_for_long_enough(
    batcher: Batcher[str, int],
    server: Server,
    threads: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
    coming: int,
) -> None:
    sleep, came, pauses = time.sleep, itertools.count(1), list[int]()

    def pause(seconds: float) -> None:
        """Let one more come; those who wait for something here really do."""
        if seconds:
            sleep(seconds)
            return
        pauses.append(number := next(came))
        if number <= coming:
            threads.submit(batcher.get, f"{number}")
            eventually(lambda: gathered(batcher, 1 + number))

    monkeypatch.setattr("time.sleep", pause)
    batcher._company = 1
    batcher.get("0")
    assert server.questions[0] == {f"{number}" for number in range(1 + min(coming, PAUSES))}
    assert len(pauses) == min(coming + 1, PAUSES)


@pytest.mark.parametrize("by_deadline", [False, True])
def test_who_has_another_deadline_is_asked_for_alone_where_that_matters(
    batcher: Batcher[str, int],
    server: Server,
    held_up: Callable[..., Future[int]],
    threads: ThreadPoolExecutor,
    by_deadline: bool,
) -> None:
    def ask(key: str, seconds: float) -> int:
        with deadline.within(seconds):
            return batcher.get(key)

    batcher._by_deadline = by_deadline
    held_up()
    others = [threads.submit(ask, "a", LONG)]
    eventually(lambda: gathered(batcher, 1))
    others += [threads.submit(ask, "b", LONG / 2), threads.submit(ask, "c", LONG)]
    eventually(lambda: gathered(batcher, 2 if by_deadline else 3))
    server.may_answer.set()
    for each in others:
        each.result(LONG)
    together = [{"a", "c"}, {"b"}] if by_deadline else [{"a", "b", "c"}]
    assert sorted(map(sorted, server.questions[1:])) == sorted(map(sorted, together))


def test_unknown_outcome_is_told_to_all_and_nobody_asks_again(
    server: Server, together: Callable[..., list[Future[int]]]
) -> None:
    others = together(keys(3))
    server.errors[2] = OutcomeUnknown("lost")
    server.may_answer.set()
    assert {type(each.exception(LONG)) for each in others} == {OutcomeUnknown}
    assert len(server.questions) == 2


@pytest.mark.parametrize("failures", [1, 100])
def test_what_failed_in_passing_while_another_asked_is_asked_for_once_more(
    server: Server,
    together: Callable[..., list[Future[int]]],
    failures: int,
) -> None:
    others = together(keys(20))
    server.errors = {n: ConnectionLost("gone") for n in range(2, 2 + failures)}
    server.may_answer.set()
    ends = [each.exception(LONG) for each in others]
    assert [type(end) for end in ends if end] == [ConnectionLost] * {1: 1, 100: 20}[failures]
    asked = Counter(itertools.chain.from_iterable(server.questions))
    assert sorted(asked.values()) == [1, 1] + [2] * 19


@pytest.mark.parametrize("callers", [1, 20])
def test_failure_keeps_nothing_and_does_not_grow(
    server: Server,
    together: Callable[..., list[Future[int]]],
    callers: int,
) -> None:
    class Key(str):  # can be told to be gone, which a string cannot
        __slots__ = ("__weakref__",)

    asked_for = [Key(key) for key in keys(callers)]
    gone = [weakref.ref(key) for key in asked_for]
    others = together(asked_for)
    asked_for.clear()
    server.errors[2] = KeyError("it")
    gc.disable()
    try:
        server.may_answer.set()
        errors = [each.exception(LONG) for each in others]
        assert all(len(traceback.extract_tb(error.__traceback__)) < 10 for error in errors if error)
        others.clear()
        errors.clear()
        server.questions.clear()
        eventually(lambda: not any(key() for key in gone))
    finally:
        gc.enable()


def test_one_that_is_held_up_holds_nobody_else_up(
    batcher: Batcher[str, int],
    server: Server,
    threads: ThreadPoolExecutor,
    held_up: Callable[..., Future[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batch, "BATCH_WAIT", 0.001)
    held_up()
    threads.submit(batcher.get, "second")
    eventually(lambda: server.questions == [{"first"}, {"second"}])


def test_batch_that_is_full_gathers_no_more(
    batcher: Batcher[str, int],
    server: Server,
    threads: ThreadPoolExecutor,
    held_up: Callable[..., Future[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batcher, "_most", 3)
    held_up()
    others = [threads.submit(batcher.get, f"key {n}") for n in range(7)]
    eventually(lambda: gathered(batcher, 1))
    server.may_answer.set()
    for each in others:
        each.result(LONG)
    assert sorted(map(len, server.questions)) == [1, 1, 3, 3]
