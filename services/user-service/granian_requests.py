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
from typing import TYPE_CHECKING, Any, Protocol

from server_problems import problem

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication, WSGIEnvironment

# Seconds that a request waits for its turn to wait for its body, before it is refused.
PATIENCE = 0.1
LOOK_SECONDS = 0.25  # how often somebody looks for bodies that have been waited for long enough

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
    for the application to notice.
    """

    def __init__(
        self,
        app: "WSGIApplication",
        *,
        is_closing: Callable[[], bool],
        threads: int,
        body_seconds: float,
        max_body_bytes: int,
    ) -> None:
        self._app = app
        self._is_closing = is_closing
        self._body_seconds = body_seconds
        self._max_body_bytes = max_body_bytes
        self._for_bodies = threading.Semaphore(max(1, threads // 2))
        self._waiting_until: dict[Exchange, float] = {}
        threading.Thread(target=self._give_up_slow_bodies, daemon=True).start()

    def __call__(self, exchange: Exchange, environ: "WSGIEnvironment") -> None:
        """Answer a request."""
        if not _has_body(environ):
            self._answer(exchange, environ, b"")
        elif self._for_bodies.acquire(timeout=PATIENCE):
            # Here, not in a thread of its own: once this had returned, that one read nothing.
            try:
                body = self._read(exchange, environ)
            finally:
                self._for_bodies.release()
            self._answer(exchange, environ, body)
        else:
            headers, refusal = problem(503, "Service Unavailable", "Too many slow clients")
            exchange.response_bytes(503, [*headers, ("Retry-After", "1")], refusal)

    def _read(self, exchange: Exchange, environ: "WSGIEnvironment") -> bytes | None:
        """Return the body, or None if there is nobody any more who sends or waits."""
        announced = _content_length(environ)
        if announced is not None and announced > self._max_body_bytes:
            return b""  # refused by what it announces
        self._waiting_until[exchange] = time.monotonic() + self._body_seconds
        try:
            body: bytes = environ["wsgi.input"].read(announced or self._max_body_bytes + 1)
        finally:
            in_time = self._waiting_until.pop(exchange, None) is not None
        return body if in_time and len(body) >= (announced or 0) else None

    def _give_up_slow_bodies(self) -> None:
        while True:
            time.sleep(LOOK_SECONDS)
            now = time.monotonic()
            for exchange, until in list(self._waiting_until.items()):
                if until < now and self._waiting_until.pop(exchange, None) is not None:
                    _cut(exchange)

    def _answer(self, exchange: Exchange, environ: "WSGIEnvironment", body: bytes | None) -> None:
        if body is None:
            exchange.response_bytes(400, [("Connection", "close")], b"")
            return
        response = _Response()
        chunks = self._app(_completed(environ, body), response.start)
        try:
            content = b"".join(chunks)
        finally:
            _close(chunks)
        if self._is_closing():
            response.headers.append(("Connection", "close"))  # RFC 9112, section 9.6
        exchange.response_bytes(response.status, response.headers, content)


class _Response:
    def __init__(self) -> None:
        self.status = 500
        self.headers: Headers = []

    def start(self, status: str, headers: Headers, _exc_info: Any = None) -> Callable[[bytes], Any]:  # noqa: ANN401
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


def _cut(exchange: Exchange) -> None:
    """Have the connection closed, and so whoever reads from it freed.

    granian has no call for that, and would go on reading after any whole response; one that ends
    before its length has been sent is an error of the connection.
    """
    exchange.response_iter(408, [("Content-Length", "1")], _nothing())


def _nothing() -> Iterator[bytes]:
    yield from ()


def _close(chunks: Iterable[bytes]) -> None:
    close = getattr(chunks, "close", None)
    if close is not None:
        close()
