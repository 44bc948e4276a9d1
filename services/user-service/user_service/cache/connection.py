"""The one Redis connection pool of the process."""

import math
from typing import Any

from redis import BlockingConnectionPool, Connection, Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from user_service.resilience import resolve

# Enough for every request of a worker that is at Redis at one moment; one that finds none free
# waits for the Redis time-out at most and then does without.
MAX_CONNECTIONS = 32


class _Connection(Connection):
    """A connection that looks its server's name up within the connect time-out as well."""

    def _connect(self) -> Any:  # noqa: ANN401 -- redis-py's socket
        name, timeout = self.host, self.socket_connect_timeout
        self.host = resolve.addresses(name, math.inf if timeout is None else timeout)[0]
        try:
            return super()._connect()  # type: ignore[no-untyped-call]
        finally:
            self.host = name


def redis_client(url: str, *, timeout: float) -> Redis:
    """Return a client on a pool of its own that tries once and waits ``timeout`` seconds at most.

    redis-py's defaults, ten retries of five seconds, would hold a request for a minute. Nothing
    connects before the first command, so the client may be made before a fork.
    """
    plain = {"connection_class": _Connection} if url.startswith("redis://") else {}
    pool = BlockingConnectionPool.from_url(
        url,
        **plain,
        max_connections=MAX_CONNECTIONS,
        timeout=timeout,
        socket_connect_timeout=timeout,
        socket_timeout=timeout,
        retry=Retry(NoBackoff(), 0),
        # RESP2 and no driver info: a new connection costs no round trip before its first command.
        protocol=2,
        driver_info=None,
    )
    return Redis(connection_pool=pool)
