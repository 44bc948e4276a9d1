"""States of a running Redis server in which commands fail or the history changes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import redis as redis_py


@contextmanager
def out_of_memory(redis: redis_py.Redis) -> Iterator[None]:
    """Refuse every command that needs memory."""
    redis.config_set("maxmemory", "1")
    redis.config_set("maxmemory-policy", "noeviction")
    try:
        yield
    finally:
        redis.config_set("maxmemory", "0")


@contextmanager
def read_only(redis: redis_py.Redis) -> Iterator[None]:
    """Refuse every write, as a master does that has become a replica."""
    redis.replicaof("127.0.0.1", "1")
    try:
        yield
    finally:
        redis.replicaof("NO", "ONE")


def promote(redis: redis_py.Redis) -> None:
    """Begin a new history with the same data, as a promoted replica does, and cut connections."""
    with read_only(redis):
        pass
    cut_connections(redis)


def cut_connections(redis: redis_py.Redis) -> None:
    """End the connections of all other clients, and wait until they can know."""
    redis.client_kill_filter(_type="normal", skipme=True)
    if redis.connection_pool.connection_kwargs.get("host") != "127.0.0.1":
        time.sleep(0.3)  # a container's proxy passes the end on a little later


def identify(*, again: bool = False) -> tuple[str, str]:
    """Name a database and its history, for a page store without one."""
    del again
    return "database", "history"


def generation_key(redis: redis_py.Redis) -> bytes:
    """Return the key of the generation of the only database that has pages in ``redis``."""
    (key,) = redis.scan_iter("*:generation")
    assert isinstance(key, bytes)
    return key
