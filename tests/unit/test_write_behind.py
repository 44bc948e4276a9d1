"""Write-behind: what is written together, when, and what is left out."""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar

import pytest

from user_service.cache.write_behind import MOST, WriteBehind

LONG = 30.0  # seconds: nobody who does as they should waits for so long
SOON = 5.0  # much less than that

asks: ContextVar[str] = ContextVar("asks", default="nobody")


class Writer:
    """Notes what it writes, and waits each time for as long as a test holds it up."""

    def __init__(self) -> None:
        self.written: list[list[int]] = []
        self.asked_by: list[str] = []
        self.begun = threading.Semaphore(0)
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.failure: Exception | None = None

    def __call__(self, items: Sequence[int]) -> None:
        self.begun.release()
        assert self.may_go_on.wait(LONG)
        self.asked_by.append(asks.get())
        if self.failure is not None:
            raise self.failure
        self.written.append(list(items))


@pytest.fixture
def writer() -> Writer:
    return Writer()


@pytest.fixture
def behind(writer: Writer) -> Iterator[WriteBehind[int]]:
    behind = WriteBehind(writer, gather=LONG)
    yield behind
    writer.may_go_on.set()
    behind.close()


def begin_a_write(behind: WriteBehind[int], writer: Writer) -> None:
    """Have 0 written, which is under way when this returns, and held up."""
    writer.may_go_on.clear()
    assert behind.put(0)
    assert writer.begun.acquire(timeout=LONG)


def test_who_puts_does_not_wait(behind: WriteBehind[int], writer: Writer) -> None:
    begin_a_write(behind, writer)
    assert writer.written == []


def test_who_is_alone_is_written_at_once(behind: WriteBehind[int], writer: Writer) -> None:
    for item in range(3):
        behind.put(item)
        assert writer.begun.acquire(timeout=SOON)
        behind.flush()
    assert writer.written == [[0], [1], [2]]


def test_what_comes_during_a_write_is_written_together(writer: Writer) -> None:
    behind = WriteBehind(writer, gather=0)
    begin_a_write(behind, writer)
    for item in (1, 2, 3):
        behind.put(item)
    writer.may_go_on.set()
    behind.flush()
    behind.close()
    assert writer.written == [[0], [1, 2, 3]]


def test_who_is_not_alone_gathers(behind: WriteBehind[int], writer: Writer) -> None:
    begin_a_write(behind, writer)
    behind.put(1)
    writer.may_go_on.set()
    assert not writer.begun.acquire(timeout=0.1)
    behind.put(2)
    behind.close()  # which nobody gathers beyond
    assert writer.written == [[0], [1, 2]]


def test_who_was_alone_again_gathers_no_more(writer: Writer) -> None:
    behind = WriteBehind(writer, gather=0.01)
    begin_a_write(behind, writer)
    behind.put(1)
    writer.may_go_on.set()
    assert writer.begun.acquire(timeout=SOON)
    behind.flush()
    behind._gather = LONG
    behind.put(2)
    assert writer.begun.acquire(timeout=SOON)
    behind.close()
    assert writer.written == [[0], [1], [2]]


def test_what_would_be_too_many_is_not_written(behind: WriteBehind[int], writer: Writer) -> None:
    begin_a_write(behind, writer)
    assert all(behind.put(item) for item in range(MOST))
    assert not behind.put(MOST)
    writer.may_go_on.set()
    behind.close()
    assert writer.written == [[0], list(range(MOST))]


def test_what_comes_after_the_end_is_not_written(behind: WriteBehind[int], writer: Writer) -> None:
    behind.close()
    assert not behind.put(1)
    assert writer.written == []


def test_failure_is_logged_and_not_that_of_the_next(
    behind: WriteBehind[int], writer: Writer, caplog: pytest.LogCaptureFixture
) -> None:
    writer.failure = KeyError("1")
    behind.put(1)
    behind.flush()
    writer.failure = None
    behind.put(2)
    behind.flush()
    assert writer.written == [[2]]
    (record,) = caplog.records
    assert (record.levelno, record.message) == (
        logging.ERROR,
        "a write behind the responses failed",
    )


def test_write_is_a_part_of_whatever_asked_first(behind: WriteBehind[int], writer: Writer) -> None:
    for name in ("first", "second"):
        token = asks.set(name)
        behind.put(1)
        asks.reset(token)
        behind.flush()
    assert writer.asked_by == ["first", "second"]


def test_where_there_is_no_thread_it_is_not_written(
    behind: WriteBehind[int], writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as without:
        without.setattr(threading.Thread, "start", fail)
        assert [behind.put(1), behind.put(2)] == [False, False]
    assert behind.put(3)
    behind.close()
    assert writer.written == [[3]]
    assert len(writer.asked_by) == 1  # nothing was tried again that had been given up


def test_broken_off_by_a_time_out_it_goes_on_with_the_next(
    behind: WriteBehind[int], writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Overdue(BaseException):
        """As gunicorn's worker throws into a request."""

    def submit_and_be_broken_off(*work: object) -> None:
        submit(*work)
        raise Overdue

    submit: Callable[..., object] = behind._thread.submit
    with monkeypatch.context() as late:
        late.setattr(behind._thread, "submit", submit_and_be_broken_off)
        with pytest.raises(Overdue):
            behind.put(1)
    behind.flush()
    assert behind.put(2)
    behind.close()
    assert writer.written == [[2]]


def test_has_no_thread_before_the_first_write(writer: Writer) -> None:
    before = threading.active_count()
    behind = WriteBehind(writer)
    assert threading.active_count() == before
    behind.close()
