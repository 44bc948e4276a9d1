"""Connections to PostgreSQL that wait within the deadline, and opening them.

A connection goes to the first host of a DSN that serves. libpq does not bound its name lookups, and
ignores connect_timeout where it does not block, as here: a first host that is a black hole would
use up the deadline before the second was tried.

psycopg2 calls ``wait_within_deadline`` whenever it would block. A limit on the client's side is
needed: ``statement_timeout`` and TCP's keepalives do not end the wait for a frozen server, whose
kernel still acknowledges what is sent. Under gevent, which replaces ``select.poll``, the other
greenlets run in the meantime.
"""

import math
import os
import select
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress

import psycopg2
from psycopg2.extensions import (
    POLL_OK,
    POLL_READ,
    POLL_WRITE,
    connection,
    make_dsn,
    parse_dsn,
    set_wait_callback,
)

from user_service.errors import ConnectionLost, DeadlineExceeded, Unavailable
from user_service.resilience import deadline, resolver

# Seconds for each address of each host, unless the DSN has its own connect_timeout.
CONNECT_TIMEOUT = 2.0

_EVENTS = {POLL_READ: select.POLLIN, POLL_WRITE: select.POLLOUT}


class Connection(connection):
    """A connection whose socket stays open when the deadline passes during a commit.

    A commit that waits for a synchronous standby goes on without a client, for as long as the
    standby is away, and no time-out of PostgreSQL ends that.
    """

    server: Mapping[str, str]  # the host, its address and its port, where they are known
    timeline = 0  # that the server is known to follow, for a replica
    is_committing = False
    kept_socket: socket.socket | None = None  # waits for the answer to a commit

    def keep_socket(self) -> None:
        """Take the socket from libpq, which closes an empty file instead.

        libpq's farewell goes there. PgBouncer would take it for the end of the session, and open
        the next one while the server still commits.
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


def wait_within_deadline(waiting: connection) -> None:
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
            if isinstance(waiting, Connection) and waiting.is_committing:
                waiting.keep_socket()
            raise DeadlineExceeded("the database did not answer within the request's deadline")


def connect(dsn: str, statement_timeout: float | None = None) -> Connection:
    """Return a connection in autocommit mode, with the ``session_parameters``.

    Raise ConnectionLost, or Unavailable if the database cannot store every character.
    """
    set_wait_callback(wait_within_deadline)
    parameters = session_parameters(dsn, statement_timeout)
    seconds = float(parameters.get("connect_timeout", CONNECT_TIMEOUT))
    timeout = seconds if seconds > 0 else math.inf  # libpq's rule
    failure: Exception = psycopg2.OperationalError("the DSN names no host")
    for host in _hosts(parameters):
        try:
            return _connect_to(host, parameters, timeout)
        except (psycopg2.OperationalError, DeadlineExceeded, OSError) as error:
            failure = error
    reason = str(failure).strip()
    raise ConnectionLost(f"cannot connect to the database: {reason}") from failure


def must_be_writable(dsn: str) -> bool:
    """Return whether ``dsn`` asks for a server that takes writes: the primary of several hosts.

    Raise ConnectionLost if libpq does not know an option of it.
    """
    return _parsed(dsn).get("target_session_attrs") in ("read-write", "primary")


def role_of(dsn: str) -> str:
    """Return the role that ``dsn`` names, or raise ValueError."""
    try:
        return _parsed(dsn)["user"]
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

    Without a time-out, in seconds, the session has no settings. The TCP settings together detect a
    server that vanished after 25 s of silence, or after 10 s in which sent data was not
    acknowledged. PGOPTIONS and PGCLIENTENCODING, which libpq would read, do not apply.
    """
    given = {"options": "", **_parsed(dsn), "client_encoding": "UTF8"}
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


def _parsed(dsn: str) -> dict[str, str]:
    """Return the parameters of ``dsn``, or raise ConnectionLost, which quotes nothing of it."""
    try:
        parameters = dict(parse_dsn(dsn))
        float(parameters.get("connect_timeout", 0))
    except (psycopg2.ProgrammingError, ValueError):  # the message may contain the password
        raise ConnectionLost("the URL of the database has parts that libpq rejects") from None
    return parameters


def _require_unicode(opened: Connection) -> None:
    encoding = opened.info.parameter_status("server_encoding")
    if encoding is None:  # a pooler may not tell
        with opened.cursor() as cursor:
            cursor.execute("SHOW server_encoding")
            (encoding,) = cursor.fetchone() or ("unknown",)
    if encoding != "UTF8":
        opened.close()
        raise Unavailable(f"the encoding of the database must be UTF8, and is {encoding}")


def _connect_to(host: dict[str, str], parameters: dict[str, str], timeout: float) -> Connection:
    failure: Exception | None = None
    for address in _addresses(host, min(timeout, deadline.remaining())):
        try:
            with deadline.within(timeout):
                dsn = make_dsn(**{**parameters, **host, **address})
                opened = psycopg2.connect(dsn, connection_factory=Connection)
                opened.server = {**host, **address}
                opened.autocommit = True
                _require_unicode(opened)
                return opened
        except (psycopg2.OperationalError, DeadlineExceeded) as error:
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


def _addresses(host: dict[str, str], timeout: float) -> Iterator[dict[str, str]]:
    name = host.get("host", "")
    if not name or name.startswith("/"):  # libpq's default, or the folder of a socket
        yield {}
        return
    for address in resolver.addresses(name, timeout):
        yield {"hostaddr": address}
