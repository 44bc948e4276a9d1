"""One Redis server, over TLS and over a socket of the file system."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import ConnectionError as RedisConnectionError

from dev.ports import free_port
from tests.redis_topologies import PASSWORD, DebianRedis
from user_service.cache.redis_client import redis_client


class TlsRedis(DebianRedis):
    """Answers TLS on ``tls_port``, with a certificate of its own for ``localhost``."""

    def __init__(self, data_dir: Path) -> None:
        self.tls_port = free_port()
        self.certificate, self.key = data_dir / "certificate.pem", data_dir / "key.pem"
        options = {
            "tls-port": str(self.tls_port),
            "tls-cert-file": str(self.certificate),
            "tls-key-file": str(self.key),
            "tls-auth-clients": "no",
        }
        super().__init__(data_dir, options)

    def _prepare(self) -> None:
        openssl = shutil.which("openssl")
        if openssl is None:
            pytest.skip("openssl is not installed")
        names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
        files = ["-keyout", str(self.key), "-out", str(self.certificate)]
        command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
        subprocess.run([*command, "-nodes", "-days", "2", *names, *files], check=True, timeout=30)
        for file in (self.key, self.certificate):
            self._dir.give(file)
        super()._prepare()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TlsRedis]:
    with TlsRedis(tmp_path / "redis") as started:
        yield started


def url(server: TlsRedis, host: str) -> str:
    return f"rediss://:{PASSWORD}@{host}:{server.tls_port}/0"


def test_certificate_of_the_server_is_checked_against_its_name(server: TlsRedis) -> None:
    trusted = f"?ssl_ca_certs={server.certificate}"
    assert redis_client(url(server, "localhost") + trusted, timeout=2).execute("SET", "a", "1")
    for refused in (url(server, "127.0.0.1") + trusted, url(server, "localhost")):
        with pytest.raises(RedisConnectionError, match="certificate"):
            redis_client(refused, timeout=2).execute("GET", "a")


def test_connection_with_tls_that_was_closed_while_idle_is_replaced(server: TlsRedis) -> None:
    address = f"{url(server, 'localhost')}?ssl_ca_certs={server.certificate}"
    client = redis_client(address, timeout=2)
    assert client.execute("SET", "key", "value")
    with server.client() as other:
        other.client_kill_filter(_type="normal", skipme=True)
    assert client.execute("GET", "key") == b"value"
    assert client.connections_made == 2


def test_socket_is_connected_to(tmp_path: Path) -> None:
    path = tmp_path / "redis" / "socket"
    with DebianRedis(tmp_path / "redis", {"unixsocket": str(path)}):
        client = redis_client(f"unix://:{PASSWORD}@{path}?db=1", timeout=2)
        assert client.execute("SET", "key", "value")
        assert client.execute("GET", "key") == b"value"
