"""The service's Redis client: redis-py's clients with one attempt and bounded waits.

Three kinds of installations, one interface: one server, the master that Sentinel names, a Cluster.
Nothing connects before the first command, so a client may be made before a fork.
"""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import lru_cache, partial
from itertools import count
from threading import Lock
from typing import Any, cast

import redis
from redis import exceptions as redis_errors
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode
from redis.connection import AbstractConnection
from redis.credentials import CredentialProvider
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelManagedConnection, SentinelManagedSSLConnection

from user_service.cache.redis_url import RedisUrl, Topology, parse_redis_url
from user_service.errors import Unavailable
from user_service.resilience import resolver

Value = str | bytes | int
Reply = Any

# As many as a worker serves clients at once; a request beyond that does without Redis.
MAX_CONNECTIONS = 1000
# Threads for the commands to a Cluster, unless the URL sets ``max_connections``.
CLUSTER_THREADS = 32
# redis-py raises LookupError if the Cluster has no slots, or lacks the slot of a key.
_CLUSTER_IS_DOWN = (redis_errors.RedisClusterException, redis_errors.ClusterDownError, LookupError)


class NoConnectionFree(redis.RedisError, Unavailable):
    """All connections stayed in use, which says nothing about Redis: no breaker counts it."""


class RedisClient(ABC):
    """Runs commands and scripts, and counts its connections in ``connections_made``.

    A new connection may lead to another server. A redirection does, and counts as one.
    """

    def __init__(self) -> None:
        self.connections_made = 0
        # "+=" is not atomic: of two connections at once, one might not change the number.
        self._numbers = count(1)

    @abstractmethod
    def execute(self, *command: Value) -> Reply:
        """Send one command and return the answer.

        Raise ``redis.ConnectionError`` or ``redis.TimeoutError`` if no server answers,
        NoConnectionFree if no connection comes free, and another ``redis.RedisError`` if Redis
        refuses.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the connections."""

    def run_script(self, script: str, keys: Sequence[str], arguments: Sequence[Value]) -> Reply:
        """Run ``script``, whose keys share a slot. Redis keeps its text from the first call on."""
        try:
            return self.execute("EVALSHA", _digest(script), len(keys), *keys, *arguments)
        except redis_errors.NoScriptError:
            # EVAL needs one node. redis-py's own Script loads the text into every master.
            return self.execute("EVAL", script, len(keys), *keys, *arguments)

    def register_script(self, script: bytes) -> partial[Reply]:
        """Return ``script`` as a function of keys and arguments, which `limits` calls."""
        return partial(self.run_script, script.decode())

    def _count_connection(self, *_: object) -> None:
        self.connections_made = next(self._numbers)


@lru_cache
def _digest(script: str) -> str:
    """Return the name by which Redis knows ``script``."""
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()


class Login(CredentialProvider):
    """The login of each new connection. A password that changes in a file needs no restart."""

    def __init__(self, current: Callable[[], tuple[str, ...]]) -> None:
        """Take the function that returns the user and the password, a password, or nothing."""
        self._current = current

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """Return the login as it is now."""
        return cast("tuple[str]", self._current())


class MasterClient(RedisClient):
    """Commands to one server, or to the master that Sentinel names."""

    def __init__(self, url: RedisUrl, timeout: float, current: Callable[[], RedisUrl]) -> None:
        super().__init__()
        options = _one_attempt(url, timeout) | {
            "credential_provider": Login(lambda: current().login),
            "max_connections": url.max_connections or MAX_CONNECTIONS,
            "redis_connect_func": self._on_connect,
        }
        if url.topology is Topology.SENTINEL:
            self._redis = _master_by_sentinel(url, timeout, options, current)
        else:
            self._redis = _redis(url.connection_class, options | url.options)

    def execute(self, *command: Value) -> Reply:
        """Send one command and return the answer."""
        try:
            return self._redis.execute_command(*command)
        except redis_errors.MaxConnectionsError as error:
            raise NoConnectionFree("all connections to Redis are in use") from error
        except redis.RedisError as error:
            if _is_not_of_the_master(error):
                # Open connections stay with a server that was demoted; its name may lead elsewhere.
                self._redis.connection_pool.disconnect(inuse_connections=False)
            raise

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()

    def _on_connect(self, connection: AbstractConnection) -> None:
        connection.on_connect()  # the log-in, which redis-py leaves to this function
        self._count_connection()


class ClusterClient(RedisClient):
    """Commands to the nodes of a Cluster, by the slots of their keys.

    redis-py deals with redirections, and with failed nodes, by asking one node after the other for
    the new map of the Cluster; concurrent commands queue for that. Therefore threads run commands,
    and a caller waits for the Redis time-out, lookups of names included.
    """

    def __init__(self, url: RedisUrl, timeout: float, current: Callable[[], RedisUrl]) -> None:
        super().__init__()
        self._url = url
        self._login = Login(lambda: current().login)
        self._timeout = timeout
        size = url.max_connections or CLUSTER_THREADS
        # The executor starts its threads with the first commands, hence after a fork.
        self._threads = ThreadPoolExecutor(size, thread_name_prefix="redis-cluster")
        self._connecting = Lock()
        self._cluster: redis.RedisCluster | None = None

    def execute(self, *command: Value) -> Reply:
        """Send one command and return the answer."""
        try:
            answer = self._threads.submit(copy_context().run, self._ask, command)
        except RuntimeError as error:  # the client is closed
            raise redis.ConnectionError(str(error)) from error
        try:
            return answer.result(self._timeout)
        except TimeoutError:
            if answer.cancel():
                raise NoConnectionFree("all connections to the Redis Cluster are in use") from None
            message = f"the Redis Cluster did not answer within {self._timeout} s"
            raise redis.TimeoutError(message) from None

    def close(self) -> None:
        """Close the connections."""
        self._threads.shutdown(wait=False)
        if self._cluster is not None:
            self._cluster.close()

    def _ask(self, command: tuple[Value, ...], *, may_repeat: bool = True) -> Reply:
        try:
            return self._connected().execute_command(*command)
        except _CLUSTER_IS_DOWN as error:
            raise redis.ConnectionError(str(error)) from error
        except redis_errors.ClusterError:
            # A node has named another one, which is on the map by now (MOVED), or the slot is
            # moving (ASK, TRYAGAIN). Then the second attempt fails as well.
            if not may_repeat:
                raise
            # The other node may lack writes, and redis-py may have a connection to it already.
            self._count_connection()
            return self._ask(command, may_repeat=False)

    def _connected(self) -> redis.RedisCluster:
        with self._connecting:
            if self._cluster is None:
                url = self._url
                self._cluster = Cluster(
                    startup_nodes=[ClusterNode(host, port) for host, port in url.hosts],
                    # The hosts may be names, which stay right wherever the nodes move.
                    dynamic_startup_nodes=False,
                    require_full_coverage=False,
                    ssl=issubclass(url.connection_class, redis.SSLConnection),
                    redis_connect_func=self._count_connection,
                    credential_provider=self._login,
                    **(_one_attempt(url, self._timeout) | url.options),
                )
            return self._cluster


class Cluster(redis.RedisCluster):
    """redis-py's client of a Cluster, which raises ClusterError instead of following redirections.

    redis-py follows them in a loop. If the next node is away or not on the map, that loop closes,
    and may lend twice, a connection that it has already given back.
    """

    RedisClusterRequestTTL = 1  # rounds of the loop


class BoundedLookup(redis.Connection):
    """A mixin of connections: the name of the server is looked up within the connect time-out.

    redis-py itself asks the system's resolver, which knows no deadline. With TLS it must, because
    it compares the name with the certificate. That second lookup begins only after the first one
    succeeded in time.
    """

    def connect_check_health(self, *arguments: bool, **options: bool) -> None:
        """Connect to the first address that answers; raise ConnectionError or TimeoutError."""
        if self.is_connected:
            return
        name, timeout = self.host, self.socket_connect_timeout
        try:
            addresses = resolver.addresses(name, math.inf if timeout is None else timeout)
        except OSError as error:
            raise redis.ConnectionError(str(error)) from error
        failure: redis.RedisError = redis.ConnectionError(f"{name!r} has no address")
        try:
            for host in [name] if isinstance(self, redis.SSLConnection) else addresses:
                self.host = host
                try:
                    super().connect_check_health(*arguments, **options)
                except (redis.ConnectionError, redis.TimeoutError) as error:
                    failure = error
                else:
                    return
        finally:
            self.host = name
        raise failure


class Sentinels(Sentinel):
    """The sentinels, asked by one thread at a time: redis-py reorders them while it asks."""

    def __init__(self, sentinels: list[redis.Redis], timeout: float) -> None:
        Sentinel.__init__(self, [])
        self.sentinels = sentinels
        self._timeout = timeout
        self._asking = Lock()

    def discover_master(self, service_name: str) -> tuple[str, int]:
        """Return the address of the master; raise ConnectionError or TimeoutError.

        Each sentinel that does not answer takes the Redis time-out.
        """
        if not self._asking.acquire(timeout=self._timeout):
            raise redis.TimeoutError("another command still waits for the sentinels")
        try:
            return cast("tuple[str, int]", Sentinel.discover_master(self, service_name))
        finally:
            self._asking.release()


def redis_client(
    url: str, *, timeout: float, current_url: Callable[[], str] | None = None
) -> RedisClient:
    """Return the client for ``url``; ``timeout`` is in seconds, for connecting and each command.

    ``current_url`` is called for the login of each new connection. Raise ValueError if the URL has
    an option that is not supported.
    """
    parts = parse_redis_url(url)

    def current() -> RedisUrl:
        try:
            return parts if current_url is None else parse_redis_url(current_url())
        except ValueError as error:
            raise redis.AuthenticationError(str(error)) from error

    client = ClusterClient if parts.topology is Topology.CLUSTER else MasterClient
    return client(parts, timeout, current)


def _master_by_sentinel(
    url: RedisUrl, timeout: float, options: dict[str, Any], current: Callable[[], RedisUrl]
) -> redis.Redis:
    tls_options = {name: url.options[name] for name in url.options if name.startswith("ssl_")}
    login = Login(lambda: current().sentinel_login)
    asking = _one_attempt(url, timeout) | {"credential_provider": login} | tls_options
    sentinels = [
        _redis(url.connection_class, {**asking, "host": host, "port": port})
        for host, port in url.hosts
    ]
    uses_tls = issubclass(url.connection_class, redis.SSLConnection)
    kind = SentinelManagedSSLConnection if uses_tls else SentinelManagedConnection
    sentinel: Sentinel = Sentinels(sentinels, timeout)
    master = sentinel.master_for(
        url.service, connection_class=_bounded(kind), **(options | url.options)
    )
    return cast("redis.Redis", master)


def _redis(kind: type[AbstractConnection], options: dict[str, Any]) -> redis.Redis:
    pool = redis.ConnectionPool(connection_class=_bounded(kind), **options)
    return redis.Redis.from_pool(pool)


def _bounded(kind: type[AbstractConnection]) -> type[AbstractConnection]:
    """Return ``kind`` with bounded lookups, unless it needs none: a socket of the file system."""
    if issubclass(kind, redis.Connection):
        return type("Bounded", (BoundedLookup, kind), {})
    return kind


def _one_attempt(url: RedisUrl, timeout: float) -> dict[str, Any]:
    """Return redis-py's options for one attempt of ``timeout`` seconds.

    Its defaults are ten retries of five seconds. With RESP2 and without driver info, a new
    connection needs no round trip before its first command. TLS needs one, which takes in the
    tickets of TLS 1.3: redis-py would take them for the rest of an earlier answer.
    """
    options: dict[str, Any] = {
        "socket_connect_timeout": timeout,
        "socket_timeout": timeout,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
    }
    uses_tls = issubclass(url.connection_class, redis.SSLConnection)
    return options if uses_tls else options | {"driver_info": None}


def _is_not_of_the_master(error: redis.RedisError) -> bool:
    """Tell whether ``error`` says that a server other than the one asked takes writes."""
    # Redis 6 quotes the answer to a script's command within the message of a ResponseError.
    return isinstance(
        error, redis_errors.ReadOnlyError | redis_errors.MasterDownError | redis.BusyLoadingError
    ) or any(code in str(error) for code in ("READONLY", "NOREPLICAS"))
