"""The edge: the gateway in its image, which reads pages from Redis by a user of its own."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import httpx
import pytest
import redis as redis_py

from tests import scrapes
from tests.e2e.gateway import SOURCE, Edge, Gateway, gateway
from tests.programs import shell
from tests.servers import docker_answers

IMAGE = "user-service-edge-test"
PASSWORD = "of-the-gateway"
# As in docker-compose.edge.yml.
USER = f"gateway on >{PASSWORD} ~users:{{pages}}:* -@all +mget +info"
# A busy machine misses 50 ms now and then.
PATIENT = {"TIMEOUT = 50": "TIMEOUT = 1000"}


@cache
def edge_image() -> str:
    """Return the name of the image, built from deploy/gateway; skip the test without Docker."""
    if not docker_answers():
        pytest.skip("no Docker engine answers")
    shell("docker", "build", "--quiet", "--tag", IMAGE, str(SOURCE))
    return IMAGE


@contextmanager
def edge(
    folder: Path, service_port: int, redis_port: int, changes: Mapping[str, str] = PATIENT
) -> Iterator[Gateway]:
    """Start the edge before a service whose pages are in the Redis at ``redis_port``."""
    folder.mkdir()
    (folder / "password").write_text(f"{PASSWORD}\n")
    with gateway(
        folder / "gateway",
        service_port,
        edge=Edge(edge_image(), changes),
        PAGES_REDIS_HOST="127.0.0.1",
        PAGES_REDIS_PORT=str(redis_port),
        PAGES_REDIS_PASSWORD_FILE=str(folder / "password"),
    ) as started:
        yield started


def permit(redis: redis_py.Redis) -> None:
    """Make the user of the edge, as often as wanted."""
    redis.execute_command("ACL", "SETUSER", *USER.split())


def hits(gateway: Gateway, http: httpx.Client | None = None) -> int:
    """Return how many pages the edge has served."""
    exposition = (http or httpx).get(gateway.metrics_url).text
    return int(scrapes.value(exposition, "page_cache_requests_total", result="hit"))
