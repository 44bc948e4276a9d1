"""A proxy before a server, for tests that break the connections to it."""

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from tests.faults.harness.proxy import Proxy


@contextmanager
def linked(url: str) -> Iterator[tuple[Proxy, str]]:
    """Start a proxy before the server of ``url``; yield it, and the URL by way of it."""
    parts = urlsplit(url)
    assert parts.port is not None
    login, at, _ = parts.netloc.rpartition("@")
    with Proxy(parts.port) as link:
        yield link, parts._replace(netloc=f"{login}{at}127.0.0.1:{link.port}").geturl()
