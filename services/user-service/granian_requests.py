"""How granian's threads get from a request to the application and back, by WSGI.

granian hands over a request when its header is there, and takes a response as a whole. In between,
reading a body waits for as long as the client likes, so that some slow clients would hold up all
threads. Here only half of the threads wait for bodies, and none of them for longer than it may.
"""

import io
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from server_problems import problem

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication, WSGIEnvironment

# Seconds that a request waits for its turn to wait for its body, before it is refused.
WAIT_FOR_TURN = 0.1
LOOK_SECONDS = 0.25  # how often somebody looks for bodies that have been waited for long enough
# Seconds for which a body over the limit is read on, and thrown away, before it is refused. Where
# something is left unread, closing the connection resets it, and the reset may overtake the answer:
# 8 to 20 of 100 clients never saw it.
READ_ON_SECONDS = 1.0
PIECE = 65_536
FLUSH_SECONDS = 0.02  # without it, an answer that is cut off mostly does not even begin to be sent

Headers = list[tuple[str, str]]


class Exchange(Protocol):
    """granian's side of a request: what it is to be answered, once; later answers are ignored."""

    def response_bytes(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a response. Returns at once, whether the client reads it or not."""

    def response_iter(self, status: int, headers: Headers, body: Iterator[bytes]) -> None:
        """Send a response piece by piece. Returns when the client has read most of it."""


class Requests:
    """Calls ``app`` for each request. Closes its connection afterwards if ``is_closing`` says so.

    ``body_seconds`` is how long a client may take to send a body that has no more than
    ``max_body_bytes``; then the answer is 408. A longer one is cut off one byte later, which is
    for the application to notice, and the rest is thrown away. ``count_refused`` is told method and
    status of each request that never reaches the application.
    """

    def __init__(
        self,
        app: "WSGIApplication",
        *,
        is_closing: Callable[[], bool],
        threads: int,
        body_seconds: float,
        max_body_bytes: int,
        count_refused: Callable[[str, int], None],
    ) -> None:
        self._app = app
        self._count_refused = count_refused
        self._is_closing = is_closing
        self._body_seconds = body_seconds
        self._max_body_bytes = max_body_bytes
        self._for_bodies = threading.Semaphore(max(1, threads // 2))
        self._waits: dict[Exchange, _Wait] = {}
        threading.Thread(target=self._give_up_slow_bodies, daemon=True).start()

    def __call__(self, exchange: Exchange, environ: "WSGIEnvironment") -> None:
        """Answer a request."""
        if not _has_body(environ):
            self._answer(exchange, environ, b"")
        elif self._for_bodies.acquire(timeout=WAIT_FOR_TURN):
            # In this thread: granian gives no body to another one once this call has returned.
            try:
                body = self._read(exchange, environ)
            finally:
                self._for_bodies.release()
            if body is not None:
                self._answer(exchange, environ, body)
        else:
            self._refuse(exchange, environ, _TOO_MANY, ("Retry-After", "1"))

    def _read(self, exchange: Exchange, environ: "WSGIEnvironment") -> bytes | None:
        """Return the body, or None if it did not come, which has been answered then."""
        announced = _content_length(environ)
        if announced is not None and announced > self._max_body_bytes:
            # A client that expects 100 Continue has sent nothing yet, and gets the answer instead.
            if "HTTP_EXPECT" not in environ:
                self._throw_away_the_rest(exchange, environ)
            return b""  # refused by what it announces
        size = announced or self._max_body_bytes + 1
        body = self._wait_for(exchange, environ, size, _Wait(self._body_seconds, _TOO_SLOW))
        if body is None:
            self._count_refused(environ["REQUEST_METHOD"], _TOO_SLOW.status)
        elif len(body) < (announced or 0):
            self._refuse(exchange, environ, _TOO_SHORT)
            return None
        elif len(body) > self._max_body_bytes:
            self._throw_away_the_rest(exchange, environ)
        return body

    def _throw_away_the_rest(self, exchange: Exchange, environ: "WSGIEnvironment") -> None:
        wait = _Wait(READ_ON_SECONDS, _TOO_LARGE)
        while not wait.is_over() and self._wait_for(exchange, environ, PIECE, wait):
            pass

    def _wait_for(
        self, exchange: Exchange, environ: "WSGIEnvironment", size: int, wait: "_Wait"
    ) -> bytes | None:
        """Return ``size`` bytes of the body, fewer at its end, or None if ``wait`` was over."""
        self._waits[exchange] = wait
        try:
            received: bytes = environ["wsgi.input"].read(size)
        finally:
            in_time = self._waits.pop(exchange, None) is not None
        return received if in_time else None

    def _give_up_slow_bodies(self) -> None:
        while True:
            time.sleep(LOOK_SECONDS)
            for exchange, wait in list(self._waits.items()):
                if wait.is_over() and self._waits.pop(exchange, None) is not None:
                    _cut(exchange, wait.refusal)

    def _answer(self, exchange: Exchange, environ: "WSGIEnvironment", body: bytes) -> None:
        response = _Response()
        chunks = self._app(_completed(environ, body), response.start)
        try:
            content = b"".join(chunks)
        finally:
            _close(chunks)
        if self._is_closing():
            response.headers.append(("Connection", "close"))  # RFC 9112, section 9.6
        exchange.response_bytes(response.status, response.headers, content)

    def _refuse(
        self,
        exchange: Exchange,
        environ: "WSGIEnvironment",
        refusal: "Refusal",
        *more: tuple[str, str],
    ) -> None:
        headers, body = problem(*refusal)
        exchange.response_bytes(refusal.status, [*headers, *more], body)
        self._count_refused(environ["REQUEST_METHOD"], refusal.status)


class Refusal(NamedTuple):
    """What a request is answered that does not reach the application."""

    status: int
    title: str
    detail: str


_TOO_SHORT = Refusal(400, "Bad Request", "The body ended too soon")
_TOO_SLOW = Refusal(408, "Request Timeout", "The body did not come in time")
_TOO_LARGE = Refusal(413, "Content Too Large", "The body is too large")
_TOO_MANY = Refusal(503, "Service Unavailable", "Too many slow clients")


class _Wait:
    """How long a body is waited for, and the refusal of whoever does not send it meanwhile."""

    def __init__(self, seconds: float, refusal: Refusal) -> None:
        self._until = time.monotonic() + seconds
        self.refusal = refusal

    def is_over(self) -> bool:
        return time.monotonic() > self._until


class _Response:
    def __init__(self) -> None:
        self.status = 500
        self.headers: Headers = []

    def start(self, status: str, headers: Headers, _exc_info: Any = None) -> Callable[[bytes], Any]:
        """Take what WSGI's ``start_response`` is told; nothing has been sent before the end."""
        self.status, self.headers = int(status[:3]), headers
        return _write


def _write(_: bytes) -> None:
    raise NotImplementedError("WSGI's write() is for frameworks older than WSGI")


def _completed(environ: "WSGIEnvironment", body: bytes) -> "WSGIEnvironment":
    """Return ``environ`` with what granian leaves to its caller (PEP 3333)."""
    environ.update(_ALWAYS)
    environ["wsgi.input"] = io.BytesIO(body)
    return environ


_ALWAYS: dict[str, Any] = {
    "SCRIPT_NAME": "",
    "wsgi.version": (1, 0),
    "wsgi.errors": sys.stderr,
    "wsgi.input_terminated": True,
    "wsgi.multithread": True,
    "wsgi.multiprocess": True,
    "wsgi.run_once": False,
}


def _has_body(environ: "WSGIEnvironment") -> bool:
    return environ.get("CONTENT_LENGTH", "0") != "0" or "HTTP_TRANSFER_ENCODING" in environ


def _content_length(environ: "WSGIEnvironment") -> int | None:
    length = environ.get("CONTENT_LENGTH")
    return None if length is None else int(length)  # hyper takes nothing but digits


def _cut(exchange: Exchange, refusal: Refusal) -> None:
    """Refuse the request, and have the connection closed, and so whoever reads from it freed.

    granian has no call for that, and would go on reading after any whole response; one that ends
    before its length has been sent is an error of the connection.
    """
    headers, body = problem(*refusal)
    longer = str(len(body) + 1)
    headers = [(name, longer if name == "Content-Length" else value) for name, value in headers]
    exchange.response_iter(refusal.status, headers, _with_a_pause_after(body))


def _with_a_pause_after(body: bytes) -> Iterator[bytes]:
    yield body
    time.sleep(FLUSH_SECONDS)


def _close(chunks: Iterable[bytes]) -> None:
    close = getattr(chunks, "close", None)
    if close is not None:
        close()
