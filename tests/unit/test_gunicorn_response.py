"""gunicorn's response, made to send header and body together: what goes over the wire."""

import socket
from collections.abc import Callable
from email.utils import formatdate
from types import SimpleNamespace

import pytest
from gunicorn.config import Config
from gunicorn.http.errors import InvalidResponseHeader

from gunicorn_worker import Response

Respond = Callable[[Response], None]


def sent(
    method: str, headers: list[tuple[str, str]], respond: Respond, status: str = "200 OK"
) -> str:
    """Return what ``respond`` sends, all of it."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        request = SimpleNamespace(method=method, version=(1, 1), should_close=lambda: False)
        response = Response(request, ours, Config())
        response.start_response(status, headers)
        respond(response)
        response.close()
        ours.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: theirs.recv(65536), b"")).decode("latin-1")


def writing(*parts: bytes) -> Respond:
    def respond(response: Response) -> None:
        for part in parts:
            response.write(part)

    return respond


@pytest.mark.parametrize("now", [0.0, 784111777.9, 1e9])
def test_date_is_that_of_the_second(now: float, monkeypatch: pytest.MonkeyPatch) -> None:
    for moment in (now, now + 1, now):
        monkeypatch.setattr("time.time", lambda moment=moment: moment)
        assert f"Date: {formatdate(int(moment), usegmt=True)}\r\n" in sent("GET", [], writing(b"x"))


def taking(most: int, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Have sockets take ``most`` bytes at once; return what they are asked to send at once."""
    asked: list[bytes] = []
    send = socket.socket.send

    def send_some(sock: socket.socket, data: bytes) -> int:
        asked.append(data)
        return send(sock, data[:most])

    monkeypatch.setattr("socket.socket.send", send_some)
    return asked


def test_header_and_body_are_sent_together(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = taking(65536, monkeypatch)
    sent("GET", [("Content-Length", "2")], writing(b"ok"))
    (only,) = asked
    assert only.endswith(b"\r\n\r\nok")


def test_nothing_is_lost_where_the_kernel_takes_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    body = "".join(map(str, range(1000)))
    headers = [("Content-Length", str(len(body)))]
    whole = sent("GET", headers, writing(body.encode()))
    taking(7, monkeypatch)
    assert sent("GET", headers, writing(body.encode())).endswith(f"\r\n\r\n{body}")
    assert whole.endswith(f"\r\n\r\n{body}")


@pytest.mark.parametrize("value", ["1\r\nX-Other: 1", "1\n", "\n", "\x00", "\u0100", 1])
def test_header_that_splits_the_response_is_refused_each_time(value: str) -> None:
    headers = [("X-Name", "1"), ("X-Name", value)]  # also if its name is known
    for _ in range(2):
        with pytest.raises((InvalidResponseHeader, TypeError)):
            sent("GET", headers, writing(b"ok"))


def test_headers_are_taken_as_gunicorn_takes_them() -> None:
    headers = [
        ("X-Twice", "1"),
        ("X-Twice", "1"),
        ("X-Spaces", "  2 "),
        ("X-Spaces", "\t3"),
        ("X-Spaces", "4 "),
        ("X-Latin", "\u00e9\u00df"),
        ("X-Empty", ""),
        ("connection", "close"),
        ("Upgrade", "h2c"),
        ("content-length", "2"),
    ]
    for _ in range(2):  # the second time, they have been seen
        answer = sent("GET", headers, writing(b"ok"))
        lines = answer.partition("\r\n\r\n")[0].split("\r\n")
        assert lines[lines.index("X-Twice: 1") :] == [
            *["X-Twice: 1"] * 2,
            *["X-Spaces: 2", "X-Spaces: 3", "X-Spaces: 4"],
            *["X-Latin: \u00e9\u00df", "X-Empty: ", "content-length: 2"],
        ]
        assert "Connection: keep-alive" in lines


@pytest.mark.parametrize(
    ("parts", "body"),
    [
        ((), "0\r\n\r\n"),
        ((b"",), "0\r\n\r\n"),
        ((b"a", b"bc"), "1\r\na\r\n2\r\nbc\r\n0\r\n\r\n"),
    ],
)
def test_body_of_unknown_length_is_sent_in_chunks(parts: tuple[bytes, ...], body: str) -> None:
    text = sent("GET", [], writing(*parts))
    assert text.startswith("HTTP/1.1 200 OK\r\n")
    assert text.partition("\r\n\r\n")[2] == body


@pytest.mark.parametrize(
    ("method", "status"),
    [("HEAD", "200 OK"), ("GET", "204 NO CONTENT"), ("GET", "304 NOT MODIFIED")],
)
def test_response_without_a_body_has_its_header_sent(method: str, status: str) -> None:
    text = sent(method, [("ETag", '"1"')], writing(b""), status)
    assert text.startswith(f"HTTP/1.1 {status}\r\n")
    assert text.endswith('ETag: "1"\r\n\r\n')


def test_file_does_not_go_before_its_header() -> None:
    assert not Response(None, None, Config()).can_sendfile()
