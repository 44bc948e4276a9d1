"""One Redis server, over TLS and over a socket of the file system."""

from pathlib import Path

from trustme import CA

from tests.redis_topologies import PASSWORD, DebianRedis
from tests.tls_servers import TlsRedis
from user_service.cache.redis_client import redis_client


def test_connection_with_tls_that_was_closed_while_idle_is_replaced(tmp_path: Path) -> None:
    authority, trusted = CA(), tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(trusted)
    with TlsRedis(tmp_path / "redis", authority.issue_cert("localhost")) as server:
        client = redis_client(f"{server.tls_url}?ssl_ca_certs={trusted}", timeout=2)
        assert client.execute("SET", "key", "value")
        server.disconnect()
        assert client.execute("GET", "key") == b"value"
        assert client.connections_made == 2


def test_socket_is_connected_to(tmp_path: Path) -> None:
    path = tmp_path / "redis" / "socket"
    with DebianRedis(tmp_path / "redis", {"unixsocket": str(path)}):
        client = redis_client(f"unix://:{PASSWORD}@{path}?db=1", timeout=2)
        assert client.execute("SET", "key", "value")
        assert client.execute("GET", "key") == b"value"
