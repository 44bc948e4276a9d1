"""Redis with fewer permissions than the cache would like, as managed services give them."""

import io
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis as redis_py

from dev.servers import RedisServer
from tests.redis_states import identify
from tests.responses import Serve, json_of
from user_service.cache.page_store import PageStore
from user_service.cache.redis_client import redis_client

URL = "/api/v1/users"


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def admin(own_redis: RedisServer) -> Iterator[redis_py.Redis]:
    with redis_py.Redis.from_url(own_redis.url) as admin:
        permit(admin, "on nopass ~* +@all")
        yield admin


@pytest.fixture
def url(own_redis: RedisServer) -> str:
    """The URL of the user whose permissions change."""
    return f"redis://users:any@127.0.0.1:{own_redis.port}/0"


def permit(admin: redis_py.Redis, rules: str) -> None:
    admin.execute_command("ACL SETUSER users", *rules.split())


def test_without_info_a_new_connection_begins_a_new_generation(
    admin: redis_py.Redis, url: str
) -> None:
    permit(admin, "-info")

    def process() -> PageStore:
        return PageStore(redis_client(url, timeout=2), identify, ttl=60, stale_ttl=60)

    with closing(process()) as store, closing(process()) as other:
        generation = store.look_up("page").generation
        assert store.store("page", generation, b"body")
        assert store.look_up("page").body == b"body"
        generation = other.look_up("page").generation
        assert other.store("page", generation, b"newer")
        assert [each.look_up("page").body for each in (store, other, store)] == [b"newer"] * 3
        admin.client_kill_filter(_type="normal", skipme=True)
        assert store.look_up("page").body is None


@pytest.mark.parametrize("command", ["evalsha", "mget", "set"])
def test_without_another_command_the_service_is_degraded_and_says_so_once(
    admin: redis_py.Redis, url: str, serving: Serve, log: io.StringIO, command: str
) -> None:
    client = serving(redis_url=url, redis_timeout=2, rate_limit="100/minute")

    def states() -> list[str]:
        health = json_of(client.get("/health"))
        return [client.get(URL).headers["X-Cache"], health["status"], health["redis"]]

    assert states() == ["MISS", "healthy", "connected"]
    permit(admin, f"-{command}")
    admin.flushall()
    for _ in range(5):
        assert states() == ["BYPASS", "degraded", "connected"]
    permit(admin, f"+{command}")
    assert states() == ["MISS", "healthy", "connected"]
    lines = [line for line in log.getvalue().splitlines() if "page cache" in line]
    assert len(lines) == 2
    assert "WARNING" in lines[0]
    assert "no permissions to run the" in lines[0]
    assert "page cache read again" in lines[1]
