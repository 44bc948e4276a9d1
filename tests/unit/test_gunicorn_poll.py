"""How gunicorn's worker waits for descriptors: as select.poll does, but the others go on."""

import os
import select
import socket
from collections.abc import Iterator

import gevent
import pytest

from gunicorn_worker import Poll

IN, OUT = select.POLLIN, select.POLLOUT
LONG = 10_000  # milliseconds


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def polling(*sockets: socket.socket, events: int = IN) -> Poll:
    poll = Poll()
    for each in sockets:
        poll.register(each.fileno(), events)
    return poll


def test_tells_what_is_ready_without_waiting(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.send(b"x")
    assert polling(ours).poll(0) == [(ours.fileno(), IN)]
    assert polling(ours, events=OUT).poll(0) == [(ours.fileno(), OUT)]


def test_who_may_wait_lets_others_go_on_also_if_there_is_something_already(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    theirs.send(b"x")
    other = gevent.spawn(lambda: None)
    assert polling(ours).poll(LONG) == [(ours.fileno(), IN)]
    assert other.ready()


def test_does_not_let_others_go_on_where_it_does_not_wait(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    other = gevent.spawn(lambda: None)
    assert polling(pair[0]).poll(0) == []
    assert not other.ready()
    other.join()


def test_lets_others_go_on_while_it_waits(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    other = gevent.spawn(theirs.send, b"x")
    assert polling(ours).poll(LONG) == [(ours.fileno(), IN)]
    assert other.get() == 1


@pytest.mark.parametrize("timeout", [0, 1, 20])
def test_returns_nothing_when_the_time_is_up(
    pair: tuple[socket.socket, socket.socket], timeout: int
) -> None:
    assert polling(pair[0]).poll(timeout) == []


def test_without_a_time_out_waits_for_as_long_as_it_takes(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    gevent.spawn_later(0.05, theirs.send, b"x")
    assert polling(ours).poll() == [(ours.fileno(), IN)]


def test_notices_that_the_other_end_is_gone(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    gevent.spawn(theirs.close)
    assert polling(ours).poll(LONG)


def test_waits_for_the_first_of_several(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    quiet, peer = socket.socketpair()
    with quiet, peer:
        gevent.spawn(theirs.send, b"x")
        assert polling(quiet, ours).poll(LONG) == [(ours.fileno(), IN)]


def test_forgets_what_it_is_told_to(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.send(b"x")
    poll = polling(ours)
    poll.unregister(ours.fileno())
    assert poll.poll(0) == []


def test_waits_for_both_directions(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    poll = polling(ours, events=IN | OUT)
    assert poll.poll(LONG) == [(ours.fileno(), OUT)]
    theirs.send(b"x")
    assert poll.poll(LONG) == [(ours.fileno(), IN | OUT)]


def test_negative_time_out_has_no_end(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    gevent.spawn_later(0.05, theirs.send, b"x")
    assert polling(ours).poll(-1) == [(ours.fileno(), IN)]


def test_what_is_thrown_into_a_wait_ends_it_and_is_seen(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    """Also if it is an OSError, as socket.timeout is, which a closed descriptor would raise."""

    def wait() -> str:
        try:
            return str(polling(pair[0]).poll(LONG))
        except TimeoutError as error:
            return str(error)

    waiting = gevent.spawn(wait)
    gevent.sleep(0.01)
    waiting.kill(TimeoutError("enough"))
    assert waiting.get() == "enough"


@pytest.mark.parametrize("timeout", [0, LONG, None])
def test_says_that_a_descriptor_is_closed(timeout: float | None) -> None:
    reading, writing = os.pipe()
    poll = Poll()
    poll.register(reading, IN)
    os.close(reading)
    os.close(writing)
    assert poll.poll(timeout) == [(reading, select.POLLNVAL)]
