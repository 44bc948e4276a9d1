"""One Redis server, over TLS and over a socket of the file system."""

import shutil
import subprocess
from pathlib import Path

import pytest
from redis import ConnectionError as RedisConnectionError

from dev.ports import free_port
from tests.redis_topologies import PASSWORD, DebianRedis
from user_service.cache.redis_client import redis_client


class TlsRedis(DebianRedis):
    """Answers TLS on ``tls_port``, with a certificate of its own for ``localhost``."""

    tls_port: int

    def _prepare(self) -> None:
        make_certificate(self._dir.path)
        for name in ("key.pem", "certificate.pem"):
            self._dir.give(self._dir.path / name)
        super()._prepare()


def make_certificate(folder: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem")]
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    subprocess.run([*command, "-nodes", "-days", "2", *names, *files], check=True, timeout=30)


def tls_server(folder: Path) -> TlsRedis:
    server = TlsRedis(
        folder,
        {
            "tls-port": str(port := free_port()),
            "tls-cert-file": str(folder / "certificate.pem"),
            "tls-key-file": str(folder / "key.pem"),
            "tls-auth-clients": "no",
        },
    )
    server.tls_port = port
    return server


def test_certificate_of_the_server_is_checked_against_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "redis"
    with tls_server(folder) as server:
        where = f"rediss://:{PASSWORD}@{{}}:{server.tls_port}/0?ssl_ca_certs="
        trusted = where + str(folder / "certificate.pem")
        assert redis_client(trusted.format("localhost"), timeout=2).execute("SET", "key", "value")
        with pytest.raises(RedisConnectionError, match="certificate"):
            redis_client(trusted.format("127.0.0.1"), timeout=2).execute("GET", "key")
        untrusted = where.removesuffix("?ssl_ca_certs=").format("localhost")
        with pytest.raises(RedisConnectionError, match="certificate"):
            redis_client(untrusted, timeout=2).execute("GET", "key")


def test_connection_with_tls_that_was_closed_while_idle_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "redis"
    with tls_server(folder) as server:
        where = f"rediss://:{PASSWORD}@localhost:{server.tls_port}/0?ssl_ca_certs="
        client = redis_client(where + str(folder / "certificate.pem"), timeout=2)
        assert client.execute("SET", "key", "value")
        with server.client() as other:
            other.client_kill_filter(_type="normal", skipme=True)
        assert client.execute("GET", "key") == b"value"
        assert client.connections_made == 2


def test_socket_is_connected_to(tmp_path: Path) -> None:
    folder = tmp_path / "redis"
    path = folder / "socket"
    with DebianRedis(folder, {"unixsocket": str(path)}):
        assert redis_client(f"unix://:{PASSWORD}@{path}?db=1", timeout=2).execute(
            "SET", "key", "value"
        )
        assert (
            redis_client(f"unix://:{PASSWORD}@{path}?db=1", timeout=2).execute("GET", "key")
            == b"value"
        )
