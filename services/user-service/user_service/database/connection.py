"""Connections to PostgreSQL that wait within the deadline, and opening them.

A connection goes to the first host of a DSN that serves. This module tries the hosts, because libpq
does not bound its name lookups, and ignores connect_timeout in the non-blocking mode that is used
here: a first host that is a black hole would use up the deadline before the second was tried.

psycopg2 calls ``wait_within_deadline`` whenever it would block. A limit on the client's side is
needed: ``statement_timeout`` and TCP's keepalives do not end the wait for a frozen server, whose
kernel still acknowledges what is sent. Under gevent, which replaces ``select.poll``, the other
greenlets run in the meantime.
"""

import math
import os
import select
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

import psycopg2
from psycopg2.extensions import (
    POLL_OK,
    POLL_READ,
    POLL_WRITE,
    connection,
    cursor,
    make_dsn,
    parse_dsn,
    set_wait_callback,
)

from user_service.errors import ConnectionLost, DeadlineExceeded, Unavailable
from user_service.resilience import deadline, resolver

# Seconds for each address of each host, unless the DSN has its own connect_timeout.
CONNECT_TIMEOUT = 2.0
LONGEST_TIMEOUT = 3600.0  # a longer one is none

# SQL for the timeline of a primary: the beginning of the name of each file of the log, eight
# hexadecimal digits.
TIMELINE = "left(pg_walfile_name(pg_current_wal_lsn()), 8)"

# psycopg2 cannot read the message of a server that refuses in another encoding than UTF-8.
_REFUSALS = (psycopg2.OperationalError, DeadlineExceeded, UnicodeDecodeError)
_WRITABLE = ("read-write", "primary")  # of target_session_attrs: the one server that takes writes
_EVENTS = {POLL_READ: select.POLLIN, POLL_WRITE: select.POLLOUT}


class Connection(connection):
    """A connection whose socket stays open when the deadline passes during a commit.

    A commit that waits for a synchronous standby goes on without a client, for as long as the
    standby is away, and no time-out of PostgreSQL ends that.
    """

    server: Mapping[str, str]  # the host, its address and its port, where they are known
    servers: Sequence[Mapping[str, str]]  # all that serve under the same name, and may answer
    timeline = 0  # of the server, if it is known
    is_committing = False
    kept_socket: socket.socket | None = None  # waits for the answer to a commit

    def keep_socket(self) -> None:
        """Keep a duplicate of the socket, and put /dev/null in its place.

        psycopg2 closes the connection next, and libpq's Terminate message then goes to /dev/null.
        After it, PgBouncer would open another session while the server still commits.
        """
        self.kept_socket = socket.socket(fileno=os.dup(self.fileno()))
        empty = os.open(os.devnull, os.O_RDWR)
        os.dup2(empty, self.fileno())
        os.close(empty)

    def wait_for_answer(self) -> None:
        """Return when the server has answered the commit and ended its session, or is gone."""
        if self.kept_socket is not None:
            with self.kept_socket as waiting, suppress(OSError):
                waiting.settimeout(None)
                waiting.recv(1)
                waiting.shutdown(socket.SHUT_WR)
                while waiting.recv(4096):
                    pass

    def give_up(self) -> None:
        """End ``wait_for_answer`` now."""
        if self.kept_socket is not None:
            with suppress(OSError):
                self.kept_socket.shutdown(socket.SHUT_RDWR)


class Cursor(cursor):
    """A cursor that sends SQL ahead of its statements, in the same round trip.

    In autocommit mode, all that is sent together is one transaction. A tracer, which wraps the
    connection's class of cursors, sees the statement alone.
    """

    ahead_of_next = ""
    ahead_of_each = ""

    def execute(  # type: ignore[override]  # SQL can go ahead of a string only
        self, query: str, values: Mapping[str, object] | Sequence[object] | None = None
    ) -> None:
        """Run one statement."""
        ahead, self.ahead_of_next = self.ahead_of_next + self.ahead_of_each, ""
        super().execute(ahead + query, values)


def wait_within_deadline(waiting: Connection) -> None:
    """Return when ``waiting`` is ready; raise DeadlineExceeded when the deadline has passed.

    psycopg2 closes a connection whose wait was broken off, so that an answer that still arrives
    cannot be taken for the answer to a later statement.
    """
    while (state := waiting.poll()) != POLL_OK:
        if state not in _EVENTS:
            raise psycopg2.OperationalError(f"unexpected state {state} of the connection")
        poller = select.poll()
        poller.register(waiting.fileno(), _EVENTS[state])
        left = deadline.remaining()
        if not poller.poll(None if left == math.inf else left * 1000):
            if waiting.is_committing:
                waiting.keep_socket()
            raise DeadlineExceeded("the database did not answer within the request's deadline")


def connect(
    dsn: str, statement_timeout: float | None = None, *, least_timeline: int = 0
) -> Connection:
    """Return a connection in autocommit mode, with the ``session_parameters``.

    A primary on a timeline below ``least_timeline`` counts as one that does not serve. Raise
    ConnectionLost, or Unavailable if the database cannot store every character.
    """
    set_wait_callback(wait_within_deadline)  # of the process; all its connections are made here
    parameters = session_parameters(dsn, statement_timeout)
    seconds = float(parameters.get("connect_timeout", CONNECT_TIMEOUT))
    timeout = seconds if 0 < seconds <= LONGEST_TIMEOUT else math.inf  # 0 is libpq's rule
    failure: Exception = psycopg2.OperationalError("the DSN names no host")
    for host in _hosts(parameters):
        try:
            return _connect_to(host, parameters, timeout, least_timeline)
        except (*_REFUSALS, OSError) as error:
            failure = error
    reason = str(failure).strip()
    if isinstance(failure, UnicodeDecodeError):
        reason = failure.object.decode("ascii", "replace").strip()
    raise ConnectionLost(f"cannot connect to the database: {reason}") from failure


def is_alive(idle: Connection) -> bool:
    """Return whether the server has not closed ``idle``, without a round trip.

    It takes two reads of the socket: the first may return the server's last message, and only the
    second one the end of the stream.
    """
    try:
        idle.poll()
        idle.poll()
    except psycopg2.Error:
        return False
    return not idle.closed


def has_become_read_only(connection: Connection) -> bool:
    """Return whether the server has said that it takes no writes any more.

    PostgreSQL 14 and newer report changes of both settings with their next answer.
    """
    reported = connection.info.parameter_status
    return "on" in (reported("in_hot_standby"), reported("default_transaction_read_only"))


def parameters_of(dsn: str) -> dict[str, str]:
    """Return the parameters of ``dsn``, or raise ConnectionLost, which quotes nothing of it."""
    try:
        parameters = dict(parse_dsn(dsn))
        float(parameters.get("connect_timeout", 0))
    except (psycopg2.ProgrammingError, ValueError):  # the message may contain the password
        raise ConnectionLost("the URL of the database has parts that libpq rejects") from None
    return parameters


def must_be_writable(dsn: str) -> bool:
    """Return whether ``dsn`` asks for a server that takes writes: the primary of several hosts."""
    return parameters_of(dsn).get("target_session_attrs") in _WRITABLE


def role_of(dsn: str) -> str:
    """Return the role that ``dsn`` names, or raise ValueError."""
    try:
        return parameters_of(dsn)["user"]
    except KeyError:
        raise ValueError("the URL of the database names no role") from None


def session_settings(statement_timeout: float) -> dict[str, str]:
    """Return the settings of PostgreSQL that the service relies on; the time-out is in seconds.

    The same time-out ends a transaction that waits for its client: PostgreSQL notices a client that
    vanished without a word after two hours, and would hold its locks until then.
    """
    milliseconds = str(max(1, round(statement_timeout * 1000)))  # 0 would mean no time-out
    return {
        "statement_timeout": milliseconds,
        "idle_in_transaction_session_timeout": milliseconds,
        "timezone": "UTC",
    }


def session_parameters(dsn: str, statement_timeout: float | None = None) -> dict[str, str]:
    """Return the parameters of ``dsn``, and session and TCP settings where it has none of its own.

    ``statement_timeout`` is in seconds. It is None where the settings go along with the
    transactions instead: behind PgBouncer, and for migrations. The TCP settings together detect a
    server that vanished after 25 s of silence, or after 10 s in which sent data was not
    acknowledged. PGOPTIONS and PGCLIENTENCODING, which libpq would read, do not apply.
    """
    given = {"options": "", **parameters_of(dsn), "client_encoding": "UTF8"}
    if statement_timeout is not None:
        settings = session_settings(statement_timeout).items()
        options = "".join(f"-c {name}={value} " for name, value in settings)
        given["options"] = (options + given["options"]).rstrip()
    defaults = {
        "application_name": "user-service",
        "keepalives": "1",
        "keepalives_idle": "10",
        "keepalives_interval": "5",
        "keepalives_count": "3",
        "tcp_user_timeout": "10000",
    }
    return defaults | given


def _require_unicode(opened: Connection) -> None:
    encoding = opened.info.parameter_status("server_encoding")
    if encoding is None:  # a pooler may not tell
        with opened.cursor() as cursor:
            cursor.execute("SHOW server_encoding")
            (encoding,) = cursor.fetchone() or ("unknown",)
    if encoding != "UTF8":
        opened.close()
        raise Unavailable(f"the encoding of the database must be UTF8, and is {encoding}")


def _require_timeline(opened: Connection, least_timeline: int) -> None:
    """Refuse a primary that another one has replaced, and that may not know it yet."""
    # An error is no answer: Aurora does not tell, and a role may lack the privilege.
    with suppress(psycopg2.Error), opened.cursor() as cursor:
        cursor.execute(f"SELECT {TIMELINE}")
        (timeline,) = cursor.fetchone() or ("0",)
        opened.timeline = int(timeline, 16)
    if 0 < opened.timeline < least_timeline:
        opened.close()
        raise psycopg2.OperationalError("another primary has been promoted since")


def _connect_to(
    host: dict[str, str], parameters: dict[str, str], timeout: float, least_timeline: int
) -> Connection:
    failure: Exception | None = None
    servers = _servers(host, min(timeout, deadline.remaining()))
    is_primary = parameters.get("target_session_attrs") in _WRITABLE
    for server in servers:
        try:
            with deadline.within(timeout):
                dsn = make_dsn(**(parameters | server))
                opened = psycopg2.connect(dsn, connection_factory=Connection)
                opened.server = server
                opened.servers = [server] if is_primary else servers
                opened.autocommit = True
                _require_unicode(opened)
                if is_primary:
                    _require_timeline(opened, least_timeline)
                return opened
        except _REFUSALS as error:
            # The traceback's frames hold the half-open connection, whose socket would stay open
            # until the next garbage collection.
            failure = error.with_traceback(None)
    raise failure or OSError("the host has no address")


def _hosts(parameters: dict[str, str]) -> Iterator[dict[str, str]]:
    """Take ``host=a,b port=1,2`` apart, as libpq does; one port may serve for all hosts."""
    if "hostaddr" in parameters:  # nothing to look up
        yield {}
        return
    hosts = parameters.get("host", "").split(",")
    ports = parameters.get("port", "").split(",")
    for number, host in enumerate(hosts):
        port = ports[number] if len(ports) == len(hosts) else ports[0]
        yield {name: value for name, value in (("host", host), ("port", port)) if value}


def _servers(host: dict[str, str], timeout: float) -> list[dict[str, str]]:
    """Return ``host`` with each of its addresses."""
    name = host.get("host", "")
    if not name or name.startswith("/"):  # libpq's default, or the folder of a socket
        return [host]
    return [{**host, "hostaddr": address} for address in resolver.addresses(name, timeout)]
