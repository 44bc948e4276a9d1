"""Opening a connection: to the first host of a DSN that serves, and never past the deadline.

libpq would do this by itself, but it looks names up without a limit, and when it does not block,
as here, it knows no connect_timeout: a first host that is a black hole would be waited for until
the deadline, and the second never asked.
"""

import math
from collections.abc import Iterator

import psycopg2
from psycopg2.extensions import connection, make_dsn, parse_dsn

from user_service.database import session, wait
from user_service.errors import ConnectionLost, DeadlineExceeded
from user_service.resilience import deadline, resolver

# Seconds for each address of each host, unless the DSN has its own connect_timeout.
CONNECT_TIMEOUT = 2.0

wait.install()


def connect(dsn: str) -> connection:
    """Return a connection in autocommit mode; raise ConnectionLost if there is none to be had."""
    parameters = parse_dsn(dsn)
    seconds = float(parameters.get("connect_timeout", CONNECT_TIMEOUT))
    timeout = seconds if seconds > 0 else math.inf  # as libpq has it
    failure: Exception = psycopg2.OperationalError("the DSN names no host")
    for host in _hosts(parameters):
        try:
            opened = _connect_to(host, parameters, timeout)
        except (psycopg2.OperationalError, DeadlineExceeded, OSError) as error:
            failure = error
        else:
            opened.autocommit = True
            return opened
    raise ConnectionLost(f"cannot connect to the database: {failure}") from failure


def parsed(dsn: str) -> dict[str, str]:
    """Return the parameters of a DSN; raise ValueError, which tells nothing of it, for another."""
    try:
        return dict(parse_dsn(dsn))
    except psycopg2.ProgrammingError:  # whose text may hold the password
        raise ValueError("the URL of the database has what libpq does not know") from None


def is_alive(idle: connection) -> bool:
    """Tell whether the server has not closed ``idle``, without a round trip.

    Reading what has arrived costs 0.2 us and no waiting. Twice, because libpq takes the server's
    farewell with the first read and notices the end of the stream with the second.
    """
    try:
        idle.poll()
        idle.poll()
    except psycopg2.Error:
        return False
    return not idle.closed


def must_be_writable(dsn: str) -> bool:
    """Tell whether ``dsn`` asks for a server that takes writes: of several hosts, the primary."""
    return parsed(dsn).get("target_session_attrs") in ("read-write", "primary")


def has_become_read_only(connection: connection) -> bool:
    """Tell whether its server takes no writes any more, by what came with its last answer.

    PostgreSQL reports both settings by itself when they change, from version 14 on; no round trip.
    """
    reported = connection.info.parameter_status
    return "on" in (reported("in_hot_standby"), reported("default_transaction_read_only"))


def with_session_defaults(dsn: str, statement_timeout: float | None) -> str:
    """Return ``dsn`` with our session and TCP settings wherever it says nothing itself.

    Without a time-out, in seconds, nothing is set for the session. The TCP settings together
    notice a server that vanished without a word after about 25 s of silence, or after 10 s in
    which sent data was not acknowledged; until then the deadline speaks.
    """
    given = parsed(dsn)
    if statement_timeout is not None:
        ours = session.settings_for(statement_timeout).items()
        options = "".join(f"-c {name}={value} " for name, value in ours)
        given["options"] = (options + given.get("options", "")).rstrip()
    defaults = {
        "application_name": "user-service",
        "keepalives": "1",
        "keepalives_idle": "10",
        "keepalives_interval": "5",
        "keepalives_count": "3",
        "tcp_user_timeout": "10000",
    }
    return str(make_dsn(**{**defaults, **given}))


def _connect_to(host: dict[str, str], parameters: dict[str, str], timeout: float) -> connection:
    failure: Exception | None = None
    for address in _addresses(host, min(timeout, deadline.remaining())):
        try:
            with deadline.within(timeout):
                return psycopg2.connect(make_dsn(**{**parameters, **host, **address}))
        except (psycopg2.OperationalError, DeadlineExceeded) as error:
            # Its frames hold the half-open connection, and this one would hold them: until the
            # next garbage collection the socket would be open, beside all that the pool may have.
            failure = error.with_traceback(None)
    raise failure or OSError("the host has no address")


def _hosts(parameters: dict[str, str]) -> Iterator[dict[str, str]]:
    """Take ``host=a,b port=1,2`` apart, as libpq does; one port may serve for all hosts."""
    if "hostaddr" in parameters:  # nothing to look up, and libpq's own affair
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
