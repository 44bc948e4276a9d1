"""gunicorn's gevent worker, with limits of time for clients, and with problems as its own errors.

One greenlet serves each connection, so a slow client costs memory and no thread.
``gunicorn.conf.py`` names this worker; nothing in ``user_service`` depends on it.
"""

import errno
import os
import signal
import socket
import time
from contextlib import AbstractContextManager, nullcontext, suppress
from http import HTTPStatus

import gevent
from gunicorn.glogging import Logger
from gunicorn.http import errors
from gunicorn.http.body import Body, ChunkedReader
from gunicorn.http.message import Request
from gunicorn.workers.ggevent import GeventWorker

from serve import MAX_DISCARDED_BYTES
from server_problems import PROBLEMS, is_host, server_problem
from user_service.observability.metric_files import is_running

# In seconds. The first header of a connection has no reason to be late.
HEADER_SECONDS = 10
# After a stop has begun, a client may still send a request on a connection that was just in use.
LINGER = 1

# The status of each error that is not a 400 for a ParseException, or a 500 for the rest.
STATUSES = {
    errors.LimitRequestLine: 414,
    errors.ExpectationFailed: 417,
    errors.LimitRequestHeaders: 431,
    errors.UnsupportedTransferCoding: 501,
    # The service is at fault, although gunicorn derives these from errors of the client.
    errors.ConfigurationProblem: 500,
    errors.InvalidResponseHeader: 500,
    errors.InvalidResponseHeaderName: 500,
}


class QuietLogger(Logger):
    """gunicorn's log without an access log: the service writes a line for each request itself."""

    def access(self, *_: object) -> None:
        """Write nothing. With ``logconfig_dict``, ``accesslog = None`` does not switch it off."""


class ChunkedBody(Body):
    """A chunked body whose syntax errors are OSErrors, like those of a connection that broke.

    gunicorn's own exceptions reach the application as unknown errors, and raise a second response
    where the application has not read the body.
    """

    def __init__(self, request: Request, log: Logger) -> None:
        super().__init__(request.body.reader)
        self._request = request
        self._log = log

    def read(self, size: int | None = None) -> bytes:
        """Return at most ``size`` bytes; raise ConnectionResetError where a chunk is malformed."""
        try:
            content: bytes = super().read(size)
        except errors.ParseException:
            self._request.force_close()
            self._log.warning("malformed chunked body, its connection is closed")
            raise ConnectionResetError(errno.ECONNRESET, "malformed chunked body") from None
        return content


def discard_rest(body: Body) -> None:
    """Read the rest of ``body``; raise StopIteration, which closes the connection, if it is long.

    gunicorn would read on without a limit, and without a turn for the other connections.
    """
    left = MAX_DISCARDED_BYTES
    while content := body.read(16384):
        left -= len(content)
        if left < 0:
            raise StopIteration


def linger(client: socket.socket) -> None:
    """Delay the close until the client has read the answer (a lingering close, as in nginx).

    Closing with unread input resets the connection, maybe before the client has read.
    """
    with suppress(OSError), gevent.Timeout(LINGER, False):  # noqa: FBT003 -- gevent's signature
        client.shutdown(socket.SHUT_WR)
        while client.recv(65536):
            gevent.sleep(0)  # the time-out needs a turn, too


class Connection:
    """A client's connection, and the time at which its request, or its wait for one, has begun."""

    def __init__(self, client: socket.socket) -> None:
        self._client = client
        self.has_served = False
        self.note(is_serving=False)

    def note(self, *, is_serving: bool) -> None:
        """Note that a request has begun, or that the connection waits for its next one."""
        self.is_serving = is_serving
        self.has_served |= is_serving
        self.since = time.monotonic()

    def end(self) -> None:
        """Let every read return the end of the stream, and every write fail."""
        # Through a second object with the same descriptor: through the first, gevent would raise
        # EBADF in the greenlet that waits for it. There may be no descriptor left for a duplicate.
        with suppress(OSError, ValueError):  # closed already
            twin = socket.socket(fileno=self._client.fileno())
            try:
                twin.shutdown(socket.SHUT_RDWR)
            finally:
                twin.detach()


class Worker(GeventWorker):
    """Closes connections that are slow or idle, and serves the others in turn.

    ``request_seconds`` is the time from the end of a request's header to the end of its response,
    the slow sender of a body and the slow reader included. ``launcher_pid`` is the process that
    has started gunicorn, if gunicorn is to end with it. With ``cors``, scripts may read the
    worker's own problems.
    """

    request_seconds = 10.0
    launcher_pid: int | None = None
    cors = False

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self._connections: dict[gevent.Greenlet, Connection] = {}

    def notify(self) -> None:
        """Show the arbiter that the worker lives, once a second; end connections that are due."""
        super().notify()
        if self.launcher_pid is not None and not is_running(self.launcher_pid):
            os.kill(self.ppid, signal.SIGTERM)
        now = time.monotonic()
        for connection in tuple(self._connections.values()):
            if now - connection.since >= self._limit_of(connection):
                connection.end()

    def _limit_of(self, connection: Connection) -> float:
        if connection.is_serving:
            return self.request_seconds
        if not self.alive:
            return LINGER
        return float(self.cfg.keepalive if connection.has_served else HEADER_SECONDS)

    def handle(self, listener: socket.socket, client: socket.socket, addr: object) -> None:
        """Serve a connection until it ends."""
        greenlet = gevent.getcurrent()
        self._connections[greenlet] = Connection(client)
        try:
            super().handle(listener, client, addr)
        finally:
            del self._connections[greenlet]

    def timeout_ctx(self) -> AbstractContextManager[None]:
        """Begin the wait for a connection's next request, which ``notify`` bounds."""
        self._connections[gevent.getcurrent()].note(is_serving=False)
        return nullcontext()

    def handle_request(
        self, listener_name: object, req: Request, sock: socket.socket, addr: object
    ) -> None:
        """Serve one request, then let the other connections have their turn."""
        connection = self._connections[gevent.getcurrent()]
        connection.note(is_serving=True)
        # RFC 9112, section 3.2; gunicorn itself refuses a repeated Host only.
        host = next((value for name, value in req.headers if name == "HOST"), "")
        if not is_host(host, may_be_missing=req.version < (1, 1)):
            raise errors.InvalidHeader("HOST")
        # RFC 9112, section 9.6; gunicorn itself looks for a "close" that stands alone.
        options = ",".join(value for name, value in req.headers if name == "CONNECTION")
        if "close" in [option.strip() for option in options.lower().split(",")]:
            req.force_close()
        if isinstance(req.body.reader, ChunkedReader):
            req.body = ChunkedBody(req, self.log)
        try:
            super().handle_request(listener_name, req, sock, addr)
            connection.note(is_serving=False)
            discard_rest(req.body)
        except (StopIteration, OSError):  # the connection closes; the latter for malformed chunks
            linger(sock)
            raise
        # A client that has sent its next request already never makes the greenlet wait. The other
        # connections would starve without a turn.
        gevent.sleep(0)

    def handle_error(
        self, _req: Request | None, client: socket.socket, _addr: object, exc: BaseException
    ) -> None:
        """Answer a request that is not valid HTTP, or that the application has not answered.

        Neither the answer nor the log contains any part of the request.
        """
        status = STATUSES.get(type(exc), 400 if isinstance(exc, errors.ParseException) else 500)
        if status == HTTPStatus.INTERNAL_SERVER_ERROR:
            self.log.error("unexpected error", exc_info=exc)
        headers, body = server_problem(status, cors=self.cors)
        fields = [f"{name}: {value}" for name, value in headers]
        lines = [f"HTTP/1.1 {status} {PROBLEMS[status][0]}", *fields]
        with suppress(OSError), gevent.Timeout(LINGER, False):  # noqa: FBT003 -- gevent's signature
            client.sendall("\r\n".join([*lines, "", ""]).encode("ascii") + body)
        linger(client)
