"""The way from granian to the application and back, with fakes on both sides."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import granian_requests
from granian_requests import Requests
from tests.waiting import eventually

LIMIT = 10
REFUSED: list[tuple[str, int]] = []


@pytest.fixture(autouse=True)
def _none_refused() -> None:
    REFUSED.clear()


class FakeExchange:
    def __init__(self) -> None:
        self.answers: list[tuple[int, dict[str, str], bytes]] = []
        self.cut = threading.Event()

    def response_bytes(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.answers.append((status, dict(headers), body))

    def response_iter(
        self, status: int, headers: list[tuple[str, str]], body: Iterator[bytes]
    ) -> None:
        sent = b"".join(body)
        assert len(sent) < int(dict(headers)["Content-Length"])
        self.answers.append((status, dict(headers), sent))
        self.cut.set()


class Body:
    """What a client sends, until ``ended``: then it is all there, or cut off."""

    def __init__(self, content: bytes = b"", ended: threading.Event | None = None) -> None:
        self.left, self._ended = content, ended

    def read(self, size: int) -> bytes:
        if self._ended is not None and len(self.left) <= size:
            self._ended.wait(10)
        read, self.left = self.left[:size], self.left[size:]
        return read


class EndlessBody(Body):
    def read(self, size: int) -> bytes:
        time.sleep(0.001)
        return b" " * size


class Closing(list[bytes]):
    closed = False

    def close(self) -> None:
        self.closed = True


def echo(environ: dict[str, Any], start_response: Callable[..., Any]) -> Closing:
    start_response("200 OK", [("X-Method", environ["REQUEST_METHOD"])])
    environ["answer"] = Closing([b"<", environ["wsgi.input"].read(), b">"])
    return environ["answer"]  # type: ignore[no-any-return]


def requests(*, closing: bool = False, threads: int = 4, body_seconds: float = 60) -> Requests:
    return Requests(
        echo,
        is_closing=lambda: closing,
        threads=threads,
        body_seconds=body_seconds,
        max_body_bytes=LIMIT,
        count_refused=lambda method, status: REFUSED.append((method, status)),
    )


def get() -> dict[str, Any]:
    return {"REQUEST_METHOD": "GET"}


def post(body: Body, length: int | None = 3) -> dict[str, Any]:
    framing = {"HTTP_TRANSFER_ENCODING": "chunked"}
    if length is not None:
        framing = {"CONTENT_LENGTH": str(length)}
    return {"REQUEST_METHOD": "POST", "wsgi.input": body, **framing}


def answered(exchange: FakeExchange) -> tuple[int, dict[str, str], bytes]:
    eventually(lambda: bool(exchange.answers))
    return exchange.answers[0]


def test_response_is_sent_as_a_whole_and_the_application_told_that_it_is() -> None:
    exchange, environ = FakeExchange(), get()
    requests()(exchange, environ)
    assert exchange.answers == [(200, {"X-Method": "GET"}, b"<>")]
    assert environ["answer"].closed


def test_last_answer_on_a_connection_says_so_when_the_server_stops() -> None:
    exchange = FakeExchange()
    requests(closing=True)(exchange, get())
    assert answered(exchange)[1] == {"X-Method": "GET", "Connection": "close"}


@pytest.mark.parametrize(
    ("sent", "length", "seen"),
    [
        (b"abc", 3, b"abc"),
        (b"abc", None, b"abc"),
        (b"a" * 99, None, b"a" * (LIMIT + 1)),  # one too many, for the application to see
        (b"a" * 99, 99, b""),  # which refuses it by what it announces
    ],
)
def test_body_is_handed_over_up_to_the_limit_and_the_rest_thrown_away(
    sent: bytes, length: int | None, seen: bytes
) -> None:
    exchange, body = FakeExchange(), Body(sent)
    requests()(exchange, post(body, length))
    assert exchange.answers == [(200, {"X-Method": "POST"}, b"<" + seen + b">")]
    assert not body.left  # or the connection would be reset, maybe before the answer is read


def test_body_that_is_announced_too_large_is_not_asked_for() -> None:
    exchange, body = FakeExchange(), Body(b"a" * 99)
    requests()(exchange, post(body, 99) | {"HTTP_EXPECT": "100-continue"})
    assert exchange.answers == [(200, {"X-Method": "POST"}, b"<>")]
    assert len(body.left) == 99


@pytest.mark.parametrize("length", [None, 99])
def test_rest_of_a_body_is_not_waited_for_long(
    monkeypatch: pytest.MonkeyPatch, length: int | None
) -> None:
    monkeypatch.setattr(granian_requests, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(granian_requests, "READ_ON_SECONDS", 0.02)
    exchange = FakeExchange()
    requests()(exchange, post(Body(b"a" * 20, exchange.cut), length))
    status, _, refusal = exchange.answers[0]
    assert (status, json.loads(refusal)["detail"]) == (413, "The body is too large")


@pytest.mark.parametrize("length", [None, 2**40])
def test_body_without_an_end_is_refused_meanwhile(
    monkeypatch: pytest.MonkeyPatch, length: int | None
) -> None:
    monkeypatch.setattr(granian_requests, "READ_ON_SECONDS", 0.02)
    exchange = FakeExchange()
    requests()(exchange, post(EndlessBody(), length))
    assert [status for status, _, _ in exchange.answers] == [200]  # echo refuses nothing


def test_body_that_breaks_off_does_not_reach_the_application() -> None:
    exchange = FakeExchange()
    requests()(exchange, post(Body(b"ab"), 3))
    status, headers, refusal = exchange.answers[0]
    assert (status, headers["Connection"], json.loads(refusal)["status"]) == (400, "close", 400)
    assert REFUSED == [("POST", 400)]


def test_only_half_of_the_threads_wait_for_bodies(monkeypatch: pytest.MonkeyPatch) -> None:
    arrived = threading.Event()
    monkeypatch.setattr(granian_requests, "WAIT_FOR_TURN", 0.01)
    serve = requests(threads=4)
    exchanges = [FakeExchange() for _ in range(2)]
    threads = [
        threading.Thread(target=serve, args=(each, post(Body(b"abc", arrived))))
        for each in exchanges
    ]
    for thread in threads:
        thread.start()
    eventually(lambda: sum(thread.is_alive() for thread in threads) == 2)
    refused = FakeExchange()
    serve(refused, post(Body(b"abc")))
    status, headers, _ = refused.answers[0]
    assert (status, headers["Retry-After"], headers["Connection"]) == (503, "1", "close")
    assert REFUSED == [("POST", 503)]
    arrived.set()
    for thread in threads:
        thread.join()
    assert {answered(each)[0] for each in exchanges} == {200}
    serve(again := FakeExchange(), post(Body(b"abc")))
    assert again.answers[0][0] == 200


def test_body_that_does_not_come_in_time_ends_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(granian_requests, "LOOK_SECONDS", 0.01)
    exchange = FakeExchange()
    requests(body_seconds=0.02)(exchange, post(Body(b"ab", exchange.cut)))
    status, headers, refusal = exchange.answers[0]
    assert (status, headers["Connection"], json.loads(refusal)["status"]) == (408, "close", 408)
    assert len(exchange.answers) == 1
    assert REFUSED == [("POST", 408)]
