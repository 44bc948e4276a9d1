"""TLS to PostgreSQL and Redis: the service talks to a server with the right certificate only."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from trustme import CA

from tests.integration.users import x_cache
from tests.responses import Serve
from tests.tls_servers import TlsCluster, TlsPostgres, TlsRedis, TlsSentinel
from tests.waiting import eventually

AUTHORITY, OTHER_AUTHORITY = CA(), CA()
GOOD = AUTHORITY.issue_cert("localhost", "127.0.0.1")
BAD = {
    "wrong name": AUTHORITY.issue_cert("other.example"),
    "expired": AUTHORITY.issue_cert("localhost", not_after=datetime(2026, 1, 1, tzinfo=UTC)),
    "unknown authority": OTHER_AUTHORITY.issue_cert("localhost"),
}


@dataclass(frozen=True)
class Store:
    """A server, and whether a service uses it that has its URL."""

    server: TlsPostgres | TlsRedis
    is_used: Callable[[], bool]


@pytest.fixture
def trusted(tmp_path: Path) -> Path:
    """The file of the authorities that the service trusts."""
    file = tmp_path / "ca.pem"
    AUTHORITY.cert_pem.write_to_path(file)
    return file


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsPostgres]:
    with TlsPostgres(tmp_path_factory.mktemp("tls") / "postgres", GOOD) as server:
        yield server


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsRedis]:
    with TlsRedis(tmp_path_factory.mktemp("tls") / "redis", GOOD) as server:
        yield server


@pytest.fixture(params=["PostgreSQL", "Redis"])
def store(request: pytest.FixtureRequest, trusted: Path, serving: Serve) -> Store:
    if request.param == "Redis":
        redis = request.getfixturevalue("redis_server")
        cached = serving(redis_url=f"{redis.tls_url}?ssl_ca_certs={trusted}")
        return Store(redis, lambda: x_cache(cached) != "BYPASS")
    postgres = request.getfixturevalue("postgres")
    verified = f"?sslmode=verify-full&sslrootcert={trusted}"
    service, owner = (
        each.replace("127.0.0.1", "localhost") + verified
        for each in (postgres.service_url, postgres.url)
    )
    client = serving(database_url=service, database_owner_url=owner, retry_attempts=0)
    return Store(postgres, lambda: client.get("/health/ready").status_code == 200)


def test_redis_without_a_password_is_used(trusted: Path, tmp_path: Path, serving: Serve) -> None:
    """Nothing but the tickets of TLS 1.3 precedes the first answer on a connection."""
    with TlsRedis(tmp_path / "open", GOOD) as redis:
        with redis.client() as client:
            client.config_set("requirepass", "")
        cached = serving(redis_url=f"rediss://localhost:{redis.tls_port}?ssl_ca_certs={trusted}")
        for _ in range(20):
            redis.disconnect()
            assert x_cache(cached) != "BYPASS"


@pytest.mark.parametrize("fault", BAD)
def test_server_with_a_bad_certificate_is_not_used_until_it_has_a_good_one(
    store: Store, fault: str
) -> None:
    store.server.present(BAD[fault])
    for _ in range(5):
        assert not store.is_used()
    store.server.present(GOOD)
    eventually(store.is_used)


def test_certificates_and_authorities_are_replaced_while_the_service_runs(
    store: Store, trusted: Path
) -> None:
    def is_used_again() -> bool:
        store.server.disconnect()
        return store.is_used()

    store.server.present(GOOD)
    eventually(store.is_used)
    store.server.present(BAD["expired"])
    assert store.is_used()  # over the connection that there is
    eventually(lambda: not is_used_again())
    store.server.present(BAD["unknown authority"])
    assert not store.is_used()
    with trusted.open("ab") as file:
        file.write(OTHER_AUTHORITY.cert_pem.bytes())
    eventually(store.is_used)


@pytest.mark.parametrize("topology", ["Sentinel", "Cluster"])
def test_sentinel_and_cluster_are_verified_like_a_server(
    topology: str, redis_server: TlsRedis, trusted: Path, tmp_path: Path, serving: Serve
) -> None:
    folder, other = tmp_path / topology, tmp_path / "other.pem"
    OTHER_AUTHORITY.cert_pem.write_to_path(other)
    redis_server.present(GOOD)
    servers = {
        "Sentinel": TlsSentinel(folder, GOOD, trusted, redis_server),
        "Cluster": TlsCluster(folder, GOOD, trusted),
    }
    with servers[topology] as server:
        urls = (f"{server.tls_url}&ssl_ca_certs={file}" for file in (trusted, other))
        used, refused = (serving(redis_url=url) for url in urls)
        eventually(lambda: x_cache(used) == "HIT")
        assert x_cache(refused) == "BYPASS"
