"""gunicorn's gevent worker, made fair under keep-alive, quick to drain, and to speak in problems.

gunicorn finds it by the name in ``gunicorn.conf.py``; nothing in ``user_service`` knows of it.
"""

import math
import re
import select
import socket
import time
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from types import FrameType, TracebackType
from typing import Any, ClassVar

import gevent
import gevent.select
from gevent import monkey
from gevent.lock import BoundedSemaphore
from gevent.thread import LockType
from gunicorn import util
from gunicorn.glogging import Logger
from gunicorn.http import message, wsgi
from gunicorn.http.parser import RequestParser
from gunicorn.workers.ggevent import GeventWorker

from server_limits import LINGER
from server_problems import problem

# How often connections are looked at for those whose time is over, in seconds.
LOOK_EVERY = 0.25

_KernelPoll = monkey.get_original("select", "poll")
# By libev's.
_POLL_EVENTS = {1: select.POLLIN, 2: select.POLLOUT, 3: select.POLLIN | select.POLLOUT}
# What may stand in a header's value (RFC 9110, section 5.5), with nothing around it to be cut off.
_is_taken_as_it_is = re.compile(r"(?![ \t])[ \t\x21-\x7e\x80-\xff]*(?<![ \t])").fullmatch


class ErrorLogger(Logger):  # type: ignore[misc]
    """gunicorn's logger without its access log: the service itself writes a line a request.

    ``accesslog = None`` is not enough: where the log is configured by a dictionary, gunicorn makes
    up a line for nobody all the same, which took 6 % of the time of a cached page.
    """

    access_log_enabled = False

    def warning(self, msg: str, *args: Any, **kwargs: Any) -> None:
        """Leave out what repeats the input: a request line may name users. `problem` says it."""
        if not msg.startswith("Invalid request from"):
            super().warning(msg, *args, **kwargs)

    def exception(self, msg: str, *args: Any, **kwargs: Any) -> None:
        """Leave out query strings, for the same reason."""
        if msg == "Error handling request %s %s":
            method, uri = args
            args = (method, uri.partition("?")[0])
        super().exception(msg, *args, **kwargs)


class Response(wsgi.Response):  # type: ignore[misc]
    """gunicorn's response, that sends the header and the body, or its first part, together.

    One system call and one packet instead of two: 7 % of the time of a constant response.
    """

    headers: list[tuple[str, str]]
    headers_sent: bool
    # Names of headers that it has let pass, of which it makes nothing. All are the service's own.
    _passed_on: ClassVar[set[str]] = set()
    _unsent = b""

    def process_headers(self, headers: list[tuple[str, str]]) -> None:
        """Check ``headers`` as gunicorn does, but once for each name that it only passes on.

        Values are still checked each time. It takes 6 us for a user instead of 13; remembering
        whole lists of headers does not help, since some values change with every response.
        """
        for name, value in headers:
            if name in self._passed_on and _is_taken_as_it_is(value):
                self.headers.append((name, value))
            else:
                super().process_headers([(name, value)])
                if name.lower() != "content-length" and not util.is_hoppish(name):
                    self._passed_on.add(name)

    def send_headers(self) -> None:
        """Make the header; it is sent with what comes next."""
        if not self.headers_sent:
            lines = [*self.default_headers(), *[f"{k}: {v}\r\n" for k, v in self.headers], "\r\n"]
            self._unsent = "".join(lines).encode("latin-1")
            self.headers_sent = True

    def _emit_body(self, data: bytes) -> None:
        if self.chunked:
            data = b"%X\r\n%b\r\n" % (len(data), data)
        header, self._unsent = self._unsent, b""
        unsent = header + data
        # Nearly always the kernel takes all at once; sendall asks it for its limits first.
        sent = self.sock.send(unsent)
        if sent < len(unsent):
            self.sock.sendall(unsent[sent:])

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


class Poll:
    """``select.poll``, by which only the greenlet waits, with less ado than gevent's.

    psycopg2 waits by it: 6 us of CPU instead of 13 to 20. redis-py asks it about each connection
    that it takes from its pool, where there is nothing to wait for: 2 us instead of 25. A call
    that may wait always yields to gevent's loop, even if there is something already: a greenlet
    that is always answered at once would starve the others (p99 of 10 clients 42 ms, not 17).
    """

    def __init__(self) -> None:
        self._events: dict[int, int] = {}

    def register(self, fd: Any, eventmask: int = select.POLLIN | select.POLLOUT) -> None:
        """Look out for events of ``fd``, too."""
        self._events[fd if isinstance(fd, int) else fd.fileno()] = eventmask

    modify = register

    def unregister(self, fd: Any) -> None:
        """Look out for events of ``fd`` no longer."""
        del self._events[fd if isinstance(fd, int) else fd.fileno()]

    def poll(self, timeout: float | None = None) -> list[tuple[int, int]]:
        """Return what is ready, by descriptor, within ``timeout`` ms; None has no end."""
        if timeout is not None and timeout < 0:
            timeout = None
        if timeout == 0:
            return self._polled_by(_KernelPoll(), 0)
        if len(self._events) != 1:
            return self._polled_by(gevent.select.poll(), timeout)
        return self._the_only_one(timeout)

    def _polled_by(self, other: Any, timeout: float | None) -> list[tuple[int, int]]:
        for fd, events in self._events.items():
            other.register(fd, events)
        return list(other.poll(timeout))

    def _the_only_one(self, timeout: float | None) -> list[tuple[int, int]]:
        """Wait without what gevent makes for it, as for many: an event, a set, a Timeout."""
        ((fd, events),) = self._events.items()
        hub, resume = gevent.get_hub(), gevent.getcurrent().switch
        wanted = bool(events & select.POLLIN) + 2 * bool(events & select.POLLOUT)
        try:
            ready = hub.loop.io(fd, wanted)
        except OSError:  # it is closed, which the kernel says at once
            return self._polled_by(_KernelPoll(), 0)
        ready.priority = hub.loop.MAXPRI  # as gevent: what was begun goes before what is new
        late = None if timeout is None else hub.loop.timer(timeout / 1000)
        try:
            ready.start(resume, pass_events=True)
            if late is not None:
                late.start(resume, 0, update=True)  # from now on, not from the turn's beginning
            happened = hub.switch()
        finally:
            ready.close()
            if late is not None:
                late.close()
        return [(fd, _POLL_EVENTS[happened])] if happened else []


class Overdue(BaseException):
    """A client, or its request, has taken all the time that it may."""


class Connection:
    """A client's connection; entered while its next request is waited for, as gunicorn does.

    From ``ends_at`` on, by the monotonic clock, it is ended at the worker's next look. One mark
    that is moved on, since two gevent.Timeouts for each request took 5 of the 300 us of a page.
    ``wait_seconds`` is how long the next request is waited for.
    """

    __slots__ = ("_keepalive", "ends_at", "is_idle", "wait_seconds")

    def __init__(self, header_seconds: float, keepalive: float) -> None:
        self.wait_seconds = header_seconds
        self._keepalive = keepalive
        self.ends_at = math.inf
        self.is_idle = False

    def __enter__(self) -> None:
        self.is_idle = True
        self.ends_at = time.monotonic() + self.wait_seconds

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        self.is_idle = False
        self.ends_at = math.inf
        # After its first request a connection may be idle; before, it has no reason to be.
        self.wait_seconds = self._keepalive
        return kind is Overdue  # gunicorn then has no request, and closes the connection


class Worker(GeventWorker):  # type: ignore[misc]  # gunicorn carries no types
    """One greenlet a connection, so that slow clients cost memory and nothing else.

    ``request_seconds`` is all that a request may take, from the end of its header to the end of
    its response: the slow body and the slow reader included. Then its connection is closed.
    """

    request_seconds = 10.0
    header_seconds = 10.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._connections: dict[gevent.Greenlet, Connection] = {}
        self._begun = 0
        self._is_ending = False

    def patch(self) -> None:
        """Replace what waits by what lets the other connections go on, and settings by values.

        gunicorn looks each setting up through two objects whenever it needs one, ten times a
        request: 2 % of the time of a user. They do not change once there is a worker.
        """
        super().patch()
        select.poll = Poll  # type: ignore[assignment, misc]
        self.cfg.__dict__ |= {
            name: setting.get()
            for name, setting in self.cfg.settings.items()
            if not hasattr(type(self.cfg), name)  # it is worked out, not just looked up
        }

    def run(self) -> None:
        """Serve until told to stop, and end meanwhile what takes too long."""
        # After what else is ready at that moment: it may be the request that was waited for.
        timer = gevent.get_hub().loop.timer(LOOK_EVERY, repeat=LOOK_EVERY, priority=-1)
        timer.start(self._end_overdue)
        try:
            super().run()
        finally:
            timer.close()

    def handle(self, *args: Any) -> None:
        """Serve a connection until it ends."""
        greenlet = gevent.getcurrent()
        self._connections[greenlet] = Connection(self.header_seconds, self.cfg.keepalive)
        try:
            super().handle(*args)
        finally:
            del self._connections[greenlet]

    def timeout_ctx(self) -> Connection:
        """Bound the wait for a connection's next request; gunicorn calls it around each."""
        connection = self._connections[gevent.getcurrent()]
        if not self.alive:
            connection.wait_seconds = LINGER
        return connection

    def handle_request(self, *args: Any) -> bool:
        """Serve one request, then let the other connections have their turn, if none had one.

        A client that always has the next request ready would otherwise be served for as long as
        its socket has data, since reading that never waits: without this, the slowest of 50 such
        clients waited 260 to 1,500 ms (p99) where the median was 6 ms; with it, 21 and 15 ms.
        Who has waited for anything meanwhile has given way already: a get costs 5 % less so.
        """
        connection = self._connections[gevent.getcurrent()]
        connection.ends_at = time.monotonic() + self.request_seconds
        self._begun += 1
        begun = self._begun
        try:
            super().handle_request(*args)
            if self._begun == begun:
                gevent.sleep(0)
        except Overdue:
            raise StopIteration from None  # gunicorn's word for closing the connection
        finally:
            connection.ends_at = math.inf
            if not self.alive:  # this was the last of --max-requests
                self._close_idle_connections_soon()
        return True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain, as SIGTERM asks: also of connections on which nobody asks anything."""
        super().handle_exit(sig, frame)
        self._close_idle_connections_soon()

    def _close_idle_connections_soon(self) -> None:
        if not self._is_ending:
            self._is_ending = True
            gevent.spawn_later(LINGER, self._close_idle_connections)

    def _close_idle_connections(self) -> None:
        for connection in self._connections.values():
            if connection.is_idle:
                connection.ends_at = 0

    def _end_overdue(self) -> None:
        """End what has taken too long; gevent's loop calls it, waiting for no greenlet."""
        now = time.monotonic()
        for greenlet, connection in list(self._connections.items()):
            if connection.ends_at <= now:
                connection.ends_at = math.inf  # once: it may have to wait while it tidies up
                greenlet.throw(Overdue())


def write_problem(sock: socket.socket, status_int: int, reason: str, mesg: str) -> None:  # noqa: ARG001
    """Answer what is not valid HTTP, and so never reaches Flask, with a problem too.

    ``mesg``, gunicorn's message, is left out: it repeats parts of the input.
    """
    ours = status_int == HTTPStatus.INTERNAL_SERVER_ERROR
    detail = "An unexpected error occurred" if ours else "The request is not valid HTTP"
    headers, body = problem(status_int, reason, detail)
    head = [f"HTTP/1.1 {status_int} {reason}", *(f"{name}: {value}" for name, value in headers)]
    util.write_nonblock(sock, "\r\n".join([*head, "", ""]).encode("ascii") + body)


def finish_body(parser: Any, *args: Any, **options: Any) -> bool:
    """Read on, after a request, to the end of its body.

    That is nearly always reached, or there is no body; gunicorn finds out by eight calls.
    """
    message = parser.mesg
    if message and getattr(message.body.reader, "length", None) == 0:
        return True
    return bool(_finish_body(parser, *args, **options))


def base_environ(cfg: Any) -> dict[str, Any]:
    """Return what is the same in every request's environ; making it took 3 of the 300 us."""
    same: dict[str, Any] = _same_environ(cfg)
    return same.copy()


def ip_in_allow_list(ip: str, allowed: list[str], networks: list[Any]) -> bool:
    """Tell whether a peer is a proxy that is believed; where none is, its address is not parsed.

    That took 2 of the 300 us.
    """
    return bool(allowed) and bool(_ip_in_allow_list(ip, allowed, networks))


@lru_cache(maxsize=1)
def _date_of(second: int) -> str:
    return formatdate(second, usegmt=True)


def http_date() -> str:
    """Return the time as the Date header has it.

    It is the same for a whole second; making it for each response took 5 of the 300 us of a page.
    """
    return _date_of(int(time.time()))


# gevent's locks turn threading's arguments into their own first, of which "with" has none: in turn
# with it, 3 to 5 % of the time of a user, which takes 12 locks (metrics, pool).
LockType.__enter__ = BoundedSemaphore.acquire

# gunicorn has no settings for what its responses are made by.
util.write_error = write_problem
util.http_date = http_date
_finish_body = RequestParser.finish_body
RequestParser.finish_body = finish_body
_ip_in_allow_list = message._ip_in_allow_list  # noqa: SLF001
message._ip_in_allow_list = ip_in_allow_list  # noqa: SLF001
_same_environ = lru_cache(maxsize=1)(wsgi.base_environ)
wsgi.base_environ = base_environ
wsgi.Response = Response
