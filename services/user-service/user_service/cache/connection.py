"""The one Redis connection pool of the process."""

from redis import BlockingConnectionPool, Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

# Enough for every request of a worker that is at Redis at one moment; one that finds none free
# waits for the Redis time-out at most and then does without.
MAX_CONNECTIONS = 32


def redis_client(url: str, *, timeout: float) -> Redis:
    """Return a client on a pool of its own that tries once and waits ``timeout`` seconds at most.

    redis-py's defaults, ten retries of five seconds, would hold a request for a minute. Nothing
    connects before the first command, so the client may be made before a fork.
    """
    pool = BlockingConnectionPool.from_url(
        url,
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
