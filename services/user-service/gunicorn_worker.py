"""gunicorn's gevent worker, made fair under keep-alive, quick to drain, and to speak in problems.

gunicorn finds it by the name in ``gunicorn.conf.py``; nothing in ``user_service`` knows of it.
"""

import select
import socket
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from types import FrameType
from typing import Any

import gevent
import gevent.select
from gevent import monkey
from gunicorn import util
from gunicorn.glogging import Logger
from gunicorn.http import wsgi
from gunicorn.workers.ggevent import GeventWorker

from server_problems import problem

# How long a worker that stops keeps idle connections open, in seconds: a client may be sending
# its next request at that moment. It is answered with "Connection: close" (RFC 9112, section 9.6).
LINGER = 1.0

_kernel_poll = monkey.get_original("select", "poll")


class ErrorLogger(Logger):  # type: ignore[misc]
    """gunicorn's logger without its access log: the service itself writes a line a request.

    ``accesslog = None`` is not enough: where the log is configured by a dictionary, gunicorn makes
    up a line for nobody all the same, which took 6 % of the time of a cached page.
    """

    access_log_enabled = False


class Response(wsgi.Response):  # type: ignore[misc]
    """gunicorn's response, that sends the header and the body, or its first part, together.

    One system call and one packet instead of two: 7 % of the time of a constant response.
    """

    headers_sent: bool
    _unsent = b""

    def send_headers(self) -> None:
        """Make the header; it is sent with what comes next."""
        if not self.headers_sent:
            lines = [*self.default_headers(), *(f"{k}: {v}\r\n" for k, v in self.headers), "\r\n"]
            self._unsent = "".join(lines).encode("latin-1")
            self.headers_sent = True

    def _emit_body(self, data: bytes) -> None:
        if self.chunked:
            data = b"%X\r\n%b\r\n" % (len(data), data)
        header, self._unsent = self._unsent, b""
        util.write(self.sock, header + data)

    def can_sendfile(self) -> bool:
        """Say no: the kernel would send the file before the header that waits for it here."""
        return False

    def close(self) -> None:
        """Send the header that no body came for, and then what ends the response."""
        self.send_headers()
        if self._unsent:
            header, self._unsent = self._unsent, b""
            util.write(self.sock, header)
        super().close()


class Poll(gevent.select.poll):  # type: ignore[misc]
    """gevent's ``select.poll``, that asks the kernel where there is nothing to wait for.

    redis-py asks so about each connection that it takes from its pool: 20 us of CPU by gevent's,
    1 us by this; in all a tenth of the time of a write, and more of a page's that the cache does
    not have. Who may wait goes through gevent's loop, also if there is something already: without
    that, who is always answered at once would keep the others waiting (p99 of 10 clients 42 ms
    instead of 17).
    """

    def __init__(self) -> None:
        super().__init__()
        self._of_the_kernel = _kernel_poll()

    def register(self, fd: Any, eventmask: int = select.POLLIN | select.POLLOUT) -> None:  # noqa: ANN401
        """Look out for events of ``fd`` too."""
        super().register(fd, eventmask)
        self._of_the_kernel.register(fd, eventmask)

    def unregister(self, fd: Any) -> None:  # noqa: ANN401
        """Look out for events of ``fd`` no longer."""
        super().unregister(fd)
        self._of_the_kernel.unregister(fd)

    def poll(self, timeout: float | None = None) -> list[tuple[int, int]]:
        """Return what is ready, by descriptor, within ``timeout`` ms; None has no end."""
        return list(super().poll(timeout) if timeout != 0 else self._of_the_kernel.poll(0))


class Worker(GeventWorker):  # type: ignore[misc]  # gunicorn carries no types
    """One greenlet a connection, so that slow clients cost memory and nothing else.

    ``request_seconds`` is all that a request may take, from the end of its header to the end of
    its response: the slow body and the slow reader included. Then its connection is closed.
    """

    request_seconds = 10.0
    header_seconds = 10.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 -- gunicorn's own
        super().__init__(*args, **kwargs)
        self._awaiting_request: dict[gevent.Greenlet, gevent.Timeout] = {}
        self._served: weakref.WeakSet[gevent.Greenlet] = weakref.WeakSet()
        self._begun = 0

    def patch(self) -> None:
        """Replace what waits by what lets the other connections go on, and settings by values.

        gunicorn looks each setting up through two objects whenever it needs one, ten times a
        request: 2 % of the time of a user. They do not change once there is a worker.
        """
        super().patch()
        select.poll = Poll  # type: ignore[misc]
        self.cfg.__dict__ |= {
            name: setting.get()
            for name, setting in self.cfg.settings.items()
            if not hasattr(type(self.cfg), name)  # it is worked out, not just looked up
        }

    @contextmanager
    def timeout_ctx(self) -> Iterator[None]:
        """Bound the wait for a connection's next request; gunicorn calls it around each."""
        greenlet = gevent.getcurrent()
        # After its first request a connection may be idle; before, it has no reason to be.
        served = greenlet in self._served
        timeout = gevent.Timeout(
            self.cfg.keepalive if served else self.header_seconds, exception=False
        )
        self._awaiting_request[greenlet] = timeout
        try:
            with timeout:
                yield
        finally:
            del self._awaiting_request[greenlet]

    def handle_request(self, *args: Any) -> bool:  # noqa: ANN401 -- passed on as they are
        """Serve one request, then let the other connections have their turn, if none had one.

        A client that always has the next request ready would otherwise be served for as long as
        its socket has data, since reading that never waits: without this, the slowest of 50 such
        clients waited 260 to 1,500 ms (p99) where the median was 6 ms; with it, 21 and 15 ms.
        Who has waited for anything meanwhile has given way already: a get costs 5 % less so.
        """
        self._served.add(gevent.getcurrent())
        self._begun += 1
        begun = self._begun
        with gevent.Timeout(self.request_seconds, exception=False):
            super().handle_request(*args)
            if self._begun == begun:
                gevent.sleep(0)
            return True
        raise StopIteration  # gunicorn's word for closing the connection

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain, as SIGTERM asks: also of connections on which nobody asks anything."""
        super().handle_exit(sig, frame)
        gevent.spawn_later(LINGER, self._close_idle_connections)

    def _close_idle_connections(self) -> None:
        for greenlet, timeout in list(self._awaiting_request.items()):
            gevent.kill(greenlet, timeout)


def write_problem(sock: socket.socket, status_int: int, reason: str, mesg: str) -> None:  # noqa: ARG001
    """Answer what is not valid HTTP, and so never reaches Flask, with a problem too.

    ``mesg``, gunicorn's message, is left out: it repeats parts of the input.
    """
    ours = status_int == HTTPStatus.INTERNAL_SERVER_ERROR
    detail = "An unexpected error occurred" if ours else "The request is not valid HTTP"
    headers, body = problem(status_int, reason, detail)
    head = [f"HTTP/1.1 {status_int} {reason}", *(f"{name}: {value}" for name, value in headers)]
    util.write_nonblock(sock, "\r\n".join([*head, "", ""]).encode("ascii") + body)


@lru_cache(maxsize=1)
def _date_of(second: int) -> str:
    return formatdate(second, usegmt=True)


def http_date() -> str:
    """Return the time as the Date header has it.

    It is the same for a whole second; making it for each response took 5 of the 300 us of a page.
    """
    return _date_of(int(time.time()))


# gunicorn has no settings for what its responses are made by.
util.write_error = write_problem
util.http_date = http_date
wsgi.Response = Response
