"""Real servers for the session; for each test an empty database and an application."""

from collections.abc import Iterator
from contextlib import ExitStack, closing

import psycopg2
import pytest
import redis as redis_py
from flask import Flask
from flask.testing import FlaskClient

from tests import application
from tests import servers as server_kinds
from tests.responses import Serve
from tests.servers import Servers
from user_service.database.migrate import migrate
from user_service.settings import Settings
from user_service.web.services import Services, services_of


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--servers",
        choices=["embedded", "containers"],
        default="embedded",
        help="run on PostgreSQL and Valkey from wheels, or on postgres:17 and redis:8 containers",
    )


def pytest_report_header(config: pytest.Config) -> str:
    return f"servers: {config.getoption('--servers')}"


@pytest.fixture(scope="session")
def servers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Servers]:
    in_containers = request.config.getoption("--servers") == "containers"
    folder = tmp_path_factory.mktemp("servers")
    with server_kinds.containers() if in_containers else server_kinds.embedded(folder) as addresses:
        migrate(addresses.database_url, owner_dsn=addresses.owner_url)
        yield addresses


@pytest.fixture
def redis(servers: Servers) -> Iterator[redis_py.Redis]:
    """A client of the tests' own, on an empty Redis."""
    with redis_py.Redis.from_url(servers.redis_url) as client:
        client.flushall()
        yield client


@pytest.fixture
def database_url(servers: Servers) -> str:
    """The URL of a migrated database without users, as the service's role."""
    with closing(psycopg2.connect(servers.owner_url)) as connection, connection:
        connection.cursor().execute("TRUNCATE users, idempotency_keys RESTART IDENTITY")
    return servers.database_url


@pytest.fixture
def settings(servers: Servers, database_url: str, redis: redis_py.Redis) -> Settings:
    """Production's settings, but for patience with a busy machine: a test of X-Cache needs it."""
    return Settings.model_validate(
        {"database_url": database_url, "redis_url": servers.redis_url, "redis_timeout": 2}
    )


@pytest.fixture
def serving(settings: Settings) -> Iterator[Serve]:
    """Return a function that makes a client of a service with settings of its own."""
    with ExitStack() as stack:
        yield lambda **changed: stack.enter_context(application.serving(settings, **changed))


@pytest.fixture
def app(serving: Serve) -> Flask:
    return serving().application


@pytest.fixture
def services(app: Flask) -> Services:
    return services_of(app)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()
