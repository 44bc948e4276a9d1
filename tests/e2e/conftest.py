import itertools
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import pytest
import redis as redis_py

from tests.e2e.service import RunningService, Start, running
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
def start(tmp_path: Path, environment: dict[str, str]) -> Start:
    """Return a function that runs the service with other settings for a block."""
    numbers = itertools.count()

    def start(
        command: list[str] | None = None, **settings: str
    ) -> AbstractContextManager[RunningService]:
        return running(tmp_path / f"log-{next(numbers)}", environment | settings, command)

    return start


@pytest.fixture
def service(start: Start) -> Iterator[RunningService]:
    with start() as started:
        yield started


@pytest.fixture
def http(service: RunningService) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=20) as client:
        yield client
