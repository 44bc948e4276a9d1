"""What is the same for every client of Redis, whether it is one server or many."""

import math
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Empty
from threading import Lock
from typing import Any, Generic, TypeVar

import hiredis
from redis import BlockingConnectionPool, Connection, ConnectionPool, Redis, SSLConnection
from redis import exceptions as redis_errors
from redis.backoff import NoBackoff
from redis.commands.core import Script
from redis.retry import Retry

from user_service.errors import Unavailable
from user_service.resilience import resolver

V = TypeVar("V")

# Enough for every request of a worker that is at Redis at one moment; one that finds none free
# waits for the Redis time-out at most and then does without.
MAX_CONNECTIONS = 32


class NoConnectionFree(redis_errors.RedisError, Unavailable):
    """All connections are in use. It says nothing of Redis, and is nothing for a breaker."""


class BoundedConnection(Connection):
    """A connection that looks its server's name up within the connect time-out as well."""

    def _connect(self) -> Any:
        name, timeout = self.host, self.socket_connect_timeout
        failure: OSError | None = None
        try:
            for self.host in resolver.addresses(name, math.inf if timeout is None else timeout):
                try:
                    return super()._connect()  # type: ignore[no-untyped-call]
                except OSError as error:
                    failure = error
        finally:
            self.host = name
        raise failure or OSError(f"{name!r} has no address")


class BoundedTlsConnection(SSLConnection, BoundedConnection):
    """The same with TLS, which is for the name and not for the address."""


class Pool(BlockingConnectionPool):
    """redis-py's pool, with a short way for a connection that is open and has nothing to read.

    That is nearly always. redis-py's way, which counts for telemetry that we do not have and is
    ready to try again, takes a fifth of the time of a command.
    """

    def get_connection(self, *args: Any, **options: Any) -> Any:
        """Return a connection for one command."""
        ready = self._ready_connection()
        return ready or super().get_connection(*args, **options)  # type: ignore[no-untyped-call]

    def release(self, connection: Any) -> None:
        """Take a connection back."""
        if connection.is_connected and not connection.should_reconnect():
            self.pool.put_nowait(connection)
        else:
            super().release(connection)  # type: ignore[no-untyped-call]

    def _ready_connection(self) -> Any:
        if self.pid != os.getpid():
            return None
        try:
            connection = self.pool.get_nowait()
        except Empty:
            return None
        is_ready = False
        try:
            is_ready = connection is not None and _is_ready(connection)
        finally:
            if not is_ready:
                self.pool.put_nowait(connection)  # on top, to be what redis-py takes
        return connection if is_ready else None


def _is_ready(connection: Any) -> bool:
    try:
        return connection.is_connected and not connection.can_read()
    except redis_errors.ConnectionError:  # the server has closed it
        return False


class Changes:
    """Counts new connections: each may lead to another server than the one that answered before."""

    def __init__(self) -> None:
        self.number = 0

    def note(self, _connection: object = None) -> None:
        """Count one."""
        self.number += 1

    def connect(self, connection: Connection) -> None:
        """Begin a connection as redis-py does, and count it."""
        try:
            connection.on_connect()
        except BaseException:  # the answer to AUTH may still come: see `_execute_command`
            connection.disconnect()
            raise
        self.note()


class _Script(Script):
    """redis-py's script, which Redis is asked for by its digest without a detour."""

    def __call__(self, keys: Any = (), args: Any = (), client: Any = None) -> Any:
        redis = client or self.registered_client
        try:
            return redis.execute_command("EVALSHA", self.sha, len(keys), *keys, *args)
        except redis_errors.NoScriptError:  # it is a new server, or was told to forget them
            return super().__call__(keys, args, client)


class RedisClient(Redis):
    """redis-py's client, which also tells when another server than before may answer."""

    def __init__(self, pool: ConnectionPool, changes: Changes) -> None:
        super().__init__(connection_pool=pool)
        self._changes = changes

    @property
    def changes(self) -> int:
        """How many connections there have been; while it stays, no other server has taken over."""
        return self._changes.number

    def register_script(self, script: Any) -> Script:
        """Return ``script`` as a function of keys and arguments."""
        return _Script(self, script)

    def _execute_command(self, *args: Any, **options: Any) -> Any:
        """Send a command and return the answer, without redis-py's retries and telemetry.

        We have neither, and they were a fifth of the calls that it makes for a command. Nor does it
        look at each argument for kinds that hiredis does not take: we have none.
        """
        connection = self._connection_from_pool()
        try:
            connection.send_packed_command(_packed(*args))
            return self.parse_response(connection, args[0], **options)  # type: ignore[no-untyped-call]
        except redis_errors.ResponseError:  # an answer, and read to its end
            raise
        except BaseException:
            # Its answer may still come, and be taken for that to the next command: a connection
            # to a master that Sentinel names does not close itself.
            connection.disconnect()
            raise
        finally:
            self.connection_pool.release(connection)

    def _connection_from_pool(self) -> Connection:
        try:
            return self.connection_pool.get_connection()
        except redis_errors.ConnectionError as error:
            if isinstance(error.__context__, Empty):  # which redis-py does not tell otherwise
                raise NoConnectionFree(f"all {MAX_CONNECTIONS} are in use") from error
            raise

    def disconnect(self) -> None:
        """Close the connections; the next command opens another."""
        self.connection_pool.disconnect()


def _packed(name: str, *arguments: str | bytes | int) -> list[bytes]:
    """Return a command in Redis' protocol; its name may be of several words."""
    return [hiredis.pack_command((*name.split(), *arguments))]  # type: ignore[arg-type]


class Background(Generic[V]):
    """Work that is done in a thread, once at a time, and waited for by whoever needs it."""

    def __init__(self, name: str, work: Callable[[], V]) -> None:
        self._work = work
        self._lock = Lock()
        self._under_way: Future[V] | None = None
        # Its thread is started by the first work, hence after any fork.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    def begin(self) -> Future[V]:
        """Have it done, unless that is under way."""
        with self._lock:
            if self._under_way is None or self._under_way.done():
                self._under_way = self._thread.submit(self._work)
            return self._under_way

    def wait(self, seconds: float) -> V:
        """Return its result; raise redis-py's TimeoutError if that takes longer."""
        try:
            return self.begin().result(seconds)
        except TimeoutError:
            raise redis_errors.TimeoutError(f"no answer within {seconds} s") from None


def connection_options(timeout: float) -> dict[str, Any]:
    """Return how we connect: one attempt, and ``timeout`` seconds for that and for each command.

    redis-py's defaults, ten retries of five seconds, would hold a request for a minute. With RESP2
    and no driver info a new connection costs no round trip before its first command.
    """
    return {
        "socket_connect_timeout": timeout,
        "socket_timeout": timeout,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        "driver_info": None,
    }


def pool_options(timeout: float) -> dict[str, Any]:
    """Return how many connections there are, and how long (in seconds) a free one is awaited."""
    return {"max_connections": MAX_CONNECTIONS, "timeout": timeout}
