"""The real servers that the tests run on: embedded ones from wheels, or containers."""

import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg2

from dev.servers import OWNER_ROLE, SERVICE_ROLE, PostgresServer, RedisServer


@dataclass(frozen=True, slots=True)
class Servers:
    """Where PostgreSQL and Redis answer.

    The roles of PostgreSQL are the service's, the owner of the tables, and a superuser.
    """

    database_url: str
    owner_url: str
    admin_url: str
    redis_url: str


@contextmanager
def embedded(folder: Path) -> Iterator[Servers]:
    """Start the servers of ``make run`` in ``folder``."""
    with (
        PostgresServer(folder / "postgres", durable=False) as postgres,
        RedisServer(folder / "redis") as redis,
    ):
        yield Servers(postgres.service_url, postgres.url, postgres.admin_url, redis.url)


@contextmanager
def containers() -> Iterator[Servers]:
    """Start the servers of production in containers."""
    # Imported here: testcontainers asks for a Docker engine when it is imported.
    from testcontainers.community.postgres import PostgresContainer
    from testcontainers.community.redis import RedisContainer
    from testcontainers.core.config import testcontainers_config

    # The reaper is one more image to have; the blocks below end their containers themselves.
    testcontainers_config.ryuk_disabled = True
    with (
        # Without waiting for disks: what these databases hold is lost after each test anyway.
        PostgresContainer("postgres:17", driver=None).with_command(
            "postgres -c fsync=off"
        ) as postgres,
        RedisContainer("redis:8") as redis,
    ):
        redis_url = f"redis://{redis.get_container_host_ip()}:{redis.get_exposed_port(6379)}/0"
        address = f"{postgres.get_container_host_ip()}:{postgres.get_exposed_port(5432)}/users"
        with closing(psycopg2.connect(postgres.get_connection_url())) as connection:
            connection.autocommit = True
            for statement in (OWNER_ROLE + SERVICE_ROLE).format(password="test").splitlines():
                connection.cursor().execute(statement)
        service, owner, admin = (
            f"postgresql://{role}:test@{address}" for role in ("users_service", "users", "test")
        )
        yield Servers(service, owner, admin, redis_url)


def docker_answers() -> bool:
    """Tell whether a Docker engine can be used."""
    try:
        command = ["docker", "info", "--format", "{{.ServerVersion}}"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.returncode == 0 and answer.stdout[:1].isdigit()
