"""The forms of ``REDIS_URL``: one server, the master that Sentinel names, or a Cluster."""

import re
import ssl
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import unquote, urlsplit

from redis import Connection, RedisError
from redis.connection import AbstractConnection, parse_url

Host = tuple[str, int]

# Scheme, topology, login, hosts, service, database and query. All but the first two may be empty.
_SEVERAL_HOSTS = re.compile(
    r"(rediss?)\+(sentinel|cluster)://([^@/?]*@|)([^/?]*)/?([^/?]*)/?(\d*)(\?.*|)"
)


class Topology(StrEnum):
    """The kinds of Redis installations. A URL's scheme names all but SERVER, after a ``+``."""

    SERVER = "server"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


LONGEST_TIMEOUT = 3600.0  # seconds
# The options of redis-py that a URL may have. Others would change what commands return or how often
# they are tried, cannot be written as text, or have no use here.
_OPTIONS = re.compile(
    "host|port|path|db|client_name|protocol|health_check_interval"
    "|socket_(connect_timeout|keepalive|read_size|timeout)"
    "|ssl_(ca_(certs|data|path)|cert_reqs|certfile|check_hostname|ciphers|keyfile|min_version"
    "|password|(ex|in)clude_verify_flags)"
)
DEFAULT_PORTS = {Topology.SENTINEL: 26379, Topology.CLUSTER: 6379}


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """A Redis URL in its parts.

    ``options`` are redis-py's, for a connection of ``connection_class`` to Redis itself. A login is
    a user and a password, a password alone, or nothing. ``hosts`` are the sentinels, which know
    the master as ``service``, or nodes of the Cluster; a single server is among the ``options``.
    ``max_connections`` belongs to the pool; it is None unless the URL names it.
    """

    topology: Topology
    connection_class: type[AbstractConnection]
    options: dict[str, Any]
    max_connections: int | None
    login: tuple[str, ...]
    sentinel_login: tuple[str, ...]
    hosts: tuple[Host, ...]
    service: str


def parse_redis_url(url: str) -> RedisUrl:
    """Return the parts of ``url``; raise ValueError for an option that is not supported."""
    topology, service = Topology.SERVER, ""
    hosts: tuple[Host, ...] = ()
    if parts := _SEVERAL_HOSTS.fullmatch(url):
        scheme, kind, user, several, name, database, query = parts.groups()
        topology, service = Topology(kind), unquote(name)
        hosts = tuple(_host(each, DEFAULT_PORTS[topology]) for each in several.split(","))
        url = f"{scheme}://{user}/{database}{query}"
    options = dict(parse_url(url))
    connection_class: type[AbstractConnection] = options.pop("connection_class", Connection)
    max_connections = options.pop("max_connections", None)
    options.pop("timeout", None)  # of a wait for a free connection; there is none
    login, sentinel_login = _login(options, ""), _login(options, "sentinel_")
    counts = max_connections is None or max_connections > 0
    if not (counts and _are_supported(options, connection_class)):
        raise ValueError("the URL of Redis has an option that is not supported")
    return RedisUrl(
        topology, connection_class, options, max_connections, login, sentinel_login, hosts, service
    )


def _are_supported(options: dict[str, Any], connection_class: type[AbstractConnection]) -> bool:
    timeouts = [options.get(f"socket_{name}timeout", 1) for name in ("", "connect_")]
    if not all(0 < each <= LONGEST_TIMEOUT for each in timeouts):
        return False
    if not all(map(_OPTIONS.fullmatch, options)):
        return False
    try:  # redis-py itself would refuse a value only at the first command
        connection_class(**options)
        _try_tls(options)
    except (TypeError, ValueError, OverflowError, OSError, RedisError):
        return False
    return True


def _try_tls(options: dict[str, Any]) -> None:
    """Raise an error if OpenSSL refuses one of ``options``. Files may come, and change, later."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = options.get("ssl_min_version", context.minimum_version)
    context.set_ciphers(options.get("ssl_ciphers", "DEFAULT"))
    if "ssl_ca_data" in options:
        context.load_verify_locations(cadata=options["ssl_ca_data"])
    if "ssl_keyfile" in options and "ssl_certfile" not in options:
        raise ValueError("a key needs a certificate")


def _login(options: dict[str, Any], prefix: str) -> tuple[str, ...]:
    user, password = (options.pop(prefix + name, "") for name in ("username", "password"))
    return (user, password) if user else (password,) if password else ()


def _host(text: str, default_port: int) -> Host:
    parts = urlsplit(f"//{text}")
    return unquote(parts.hostname or ""), parts.port or default_port
