"""Redis behind Sentinel: the client asks the sentinels which server is the master.

They are asked for each new connection, in a thread, so that however many of them are frozen the
request waits for one time-out. A master that was demoted closes its connections, so that all
that follow are with the new one.
"""

from typing import Any

from redis.sentinel import (
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)

from user_service.cache.client import (
    Background,
    BoundedConnection,
    BoundedTlsConnection,
    Changes,
    Pool,
    RedisClient,
    connection_options,
    pool_options,
)


class _Connection(SentinelManagedConnection, BoundedConnection):
    pass


class _TlsConnection(SentinelManagedSSLConnection, BoundedTlsConnection):
    pass


class _Sentinel(Sentinel):
    """The sentinels, asked by one thread: redis-py reorders them while it asks."""

    def __init__(
        self, hosts: list[tuple[str, int]], service: str, timeout: float, login: dict[str, Any]
    ) -> None:
        super().__init__(hosts, sentinel_kwargs={**connection_options(timeout), **login})  # type: ignore[no-untyped-call]
        self._timeout = timeout
        ask = super().discover_master
        self._asking: Background[tuple[str, int]] = Background("sentinel", lambda: ask(service))  # type: ignore[no-untyped-call]

    def discover_master(self, service_name: str) -> tuple[str, int]:  # noqa: ARG002 -- there is one
        """Return the address of the master; raise redis-py's ConnectionError or TimeoutError."""
        return self._asking.wait(self._timeout)


class _Pool(SentinelConnectionPool, Pool):
    """Connections to the master. One to a former master is opened anew when it comes back."""

    def release(self, connection: Any) -> None:
        if self.master_address != (connection.host, connection.port):
            connection.disconnect()
        Pool.release(self, connection)

    def owns_connection(self, connection: Any) -> int:
        # As redis-py has it, one that could not be opened is not the pool's, which would make
        # another for each attempt and remember them all.
        return Pool.owns_connection(self, connection)


def sentinel_client(
    sentinels: list[tuple[str, int]], service: str, options: dict[str, Any], *, timeout: float
) -> RedisClient:
    """Return a client of the master of ``service``; ``timeout`` is in seconds."""
    changes = Changes()
    login: dict[str, Any] = {
        name: options.pop(f"sentinel_{name}", None) for name in ("username", "password")
    }
    tls = options.pop("connection_class") is BoundedTlsConnection
    if tls:
        login |= {"ssl": True, **{k: v for k, v in options.items() if k.startswith("ssl_")}}
    pool = _Pool(  # type: ignore[no-untyped-call]
        service,
        _Sentinel(sentinels, service, timeout, login),
        connection_class=_TlsConnection if tls else _Connection,
        redis_connect_func=changes.connect,
        **(connection_options(timeout) | pool_options(timeout) | options),
    )
    return RedisClient(pool, changes)
