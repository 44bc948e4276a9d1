"""The one Redis client of the process, for each form that ``REDIS_URL`` has."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote

from redis import Connection, SSLConnection
from redis.connection import AbstractConnection, parse_url

from user_service.cache.client import (
    BoundedConnection,
    BoundedTlsConnection,
    Changes,
    Pool,
    RedisClient,
    connection_options,
    pool_options,
)
from user_service.cache.cluster import ClusterClient
from user_service.cache.sentinel import sentinel_client

BOUNDED: Mapping[type[AbstractConnection], type[AbstractConnection]] = {
    Connection: BoundedConnection,
    SSLConnection: BoundedTlsConnection,
}
SENTINEL_PORT, REDIS_PORT = 26379, 6379
# Options of the pool, and those by which Sentinel itself is asked.
NOT_OF_CONNECTIONS = ("max_connections", "timeout", "sentinel_")


class Servers(NamedTuple):
    """What a URL with several hosts says: scheme, hosts, path, and redis-py's options."""

    form: str
    hosts: list[tuple[str, int]]
    path: list[str]
    options: dict[str, Any]


def redis_client(url: str, *, timeout: float) -> RedisClient:
    """Return a client that tries once and waits ``timeout`` seconds at most, for each step.

    Nothing connects before the first command, so the client may be made before a fork.
    """
    if "+" not in url.partition("://")[0]:
        return _client_of_one_server(url, timeout)
    servers = _servers(url)
    if servers.form == "cluster":
        return ClusterClient(servers.hosts, servers.options, timeout=timeout)
    service, database = (*servers.path, "0")[:2]
    options = {**servers.options, "db": int(database)}
    return sentinel_client(servers.hosts, unquote(service), options, timeout=timeout)


def _client_of_one_server(url: str, timeout: float) -> RedisClient:
    changes = Changes()
    options = _redis_py_options(url)
    pool = Pool(  # type: ignore[no-untyped-call]
        redis_connect_func=changes.connect,
        **(connection_options(timeout) | pool_options(timeout) | options),
    )
    return RedisClient(pool, changes)


def _servers(url: str) -> Servers:
    """Take ``rediss+form://user:password@host:port,host/path?option=value`` apart."""
    scheme, rest = url.split("://", 1)
    base, form = scheme.split("+")
    location, _, query = rest.partition("?")
    authority, *path = location.split("/")
    login, at, hosts = authority.rpartition("@")
    options = _redis_py_options(f"{base}://{login}{at}host?{query}")
    del options["host"]
    port = SENTINEL_PORT if form == "sentinel" else REDIS_PORT
    return Servers(form, [_host(each, port) for each in hosts.split(",")], path, options)


def _host(text: str, default_port: int) -> tuple[str, int]:
    host, port = re.fullmatch(r"(\[.*\]|[^:]*)(?::(\d+))?", text).groups()  # type: ignore[union-attr]
    return host.strip("[]"), int(port or default_port)


def _redis_py_options(url: str) -> dict[str, Any]:
    """Return what redis-py makes of a URL; raise ValueError for an option that it does not know.

    redis-py would say so with the first command only.
    """
    options = dict(parse_url(url))
    given: type[AbstractConnection] = options.pop("connection_class", Connection)
    kind = BOUNDED.get(given, given)
    try:
        kind(**{name: options[name] for name in options if not name.startswith(NOT_OF_CONNECTIONS)})
    except TypeError:
        raise ValueError("the URL of Redis has an option that redis-py does not know") from None
    return {**options, "connection_class": kind}
