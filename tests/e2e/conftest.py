from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import redis as redis_py

from tests.e2e.service import RunningService, running
from tests.servers import Servers


@pytest.fixture
def server() -> str:
    """Return the server that runs the service; modules whose tests go for all have their own."""
    return "gunicorn"


@pytest.fixture
def environment(
    server: str, servers: Servers, database_url: str, redis: redis_py.Redis
) -> dict[str, str]:
    """Return the environment of a service on the session's servers, which hold nothing."""
    return {
        "DATABASE_URL": database_url,
        "REDIS_URL": servers.redis_url,
        "REDIS_TIMEOUT": "2",
        "SERVER": server,
    }


@pytest.fixture
def service(tmp_path: Path, environment: dict[str, str]) -> Iterator[RunningService]:
    with running(tmp_path / "service.log", environment) as started:
        yield started


@pytest.fixture
def http(service: RunningService) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=20) as client:
        yield client
