"""Connections to a real Redis: which are kept, which are replaced, and what they are worth."""

import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis as redis_py
from pytest_mock import MockerFixture

from dev.servers import RedisServer
from tests.application import serving_environment
from tests.integration.users import x_cache
from tests.links import linked
from tests.redis_states import cut_connections
from tests.servers import Servers
from tests.waiting import eventually
from user_service.cache.redis_client import MAX_CONNECTIONS, RedisClient, redis_client
from user_service.resilience import resolver


@pytest.fixture
def client(servers: Servers, redis: redis_py.Redis) -> Iterator[RedisClient]:
    with closing(redis_client(servers.redis_url, timeout=2)) as client:
        yield client


def test_idle_connection_is_shared_or_replaced(client: RedisClient, redis: redis_py.Redis) -> None:
    assert client.connections_made == 0
    assert client.execute("SET", "key", "value")
    assert client.execute("MGET", "key", "no such key") == [b"value", None]
    assert client.connections_made == 1
    cut_connections(redis)
    assert client.execute("SET", "key", "value")
    assert client.connections_made == 2


def test_name_is_resolved_each_time(
    servers: Servers, redis: redis_py.Redis, mocker: MockerFixture
) -> None:
    host = urlsplit(servers.redis_url).hostname or ""
    addresses = ["127.0.0.254", socket.gethostbyname(host)]  # no server listens on the first
    look_up = mocker.patch.object(resolver, "addresses", return_value=addresses)
    url = servers.redis_url.replace(host, "cache.internal")
    with closing(redis_client(url, timeout=2)) as client:
        for _ in range(2):
            client.execute("GET", "key")
            cut_connections(redis)
    assert [call.args for call in look_up.call_args_list] == [("cache.internal", 2)] * 2


def test_answer_that_comes_too_late_is_no_answer_to_another_command(own_redis: RedisServer) -> None:
    with closing(redis_client(own_redis.url, timeout=0.3)) as client:
        for value in ("first", "second"):
            client.execute("SET", "key", value)
            own_redis.freeze()
            for _ in range(2):
                with pytest.raises(redis_py.TimeoutError):
                    client.execute("GET", "key")
            own_redis.thaw()
            assert client.execute("GET", "no such key") is None
            assert client.execute("GET", "key") == value.encode()


def test_failed_command_leaves_its_connection_free(own_redis: RedisServer) -> None:
    with closing(redis_client(own_redis.url, timeout=0.5)) as client:
        own_redis.kill()
        for _ in range(2 * MAX_CONNECTIONS):
            with pytest.raises(redis_py.ConnectionError):
                client.execute("GET", "key")
        own_redis.start()
        assert client.execute("SET", "key", "value")


@pytest.mark.parametrize("before", ["", "old"])
def test_changed_password_is_read_from_its_file(
    own_redis: RedisServer, database_url: str, tmp_path: Path, before: str
) -> None:
    file, address = tmp_path / "url", own_redis.url.partition("@")[2]
    with redis_py.Redis.from_url(own_redis.url) as admin:

        def change(password: str) -> None:
            admin.config_set("requirepass", password)
            cut_connections(admin)

        change(before)
        file.write_text(f"redis://:{before}@{address}" if before else f"redis://{address}")
        urls = {"DATABASE_URL": database_url, "REDIS_URL_FILE": str(file)}
        with serving_environment(**urls, REDIS_TIMEOUT="2") as client:
            assert x_cache(client) == "MISS"
            change("new")
            assert x_cache(client) == "BYPASS"
            file.write_text(f"redis://:new@{address}\n")
            eventually(lambda: x_cache(client) != "BYPASS")


@pytest.mark.parametrize("by", ["command", "script"])
@pytest.mark.parametrize(
    "demotion",
    [
        ["REPLICAOF 127.0.0.1 1"],
        ["CONFIG SET replica-serve-stale-data no", "REPLICAOF 127.0.0.1 1"],
        ["CONFIG SET min-replicas-to-write 1"],
    ],
    ids=["READONLY", "MASTERDOWN", "NOREPLICAS"],
)
def test_former_master_is_left_as_soon_as_it_refuses_a_command(
    own_redis: RedisServer, tmp_path: Path, demotion: list[str], by: str
) -> None:
    """A demoted server keeps its connections; the name leads to its successor."""
    with RedisServer(tmp_path / "successor") as successor, linked(own_redis.url) as (name, url):
        with redis_py.Redis.from_url(successor.url) as admin:
            admin.config_set("requirepass", urlsplit(own_redis.url).password or "")
        with closing(redis_client(url, timeout=2)) as client:
            script = client.register_script(b"return redis.call('SET', KEYS[1], ARGV[1])")

            def write(value: str) -> None:
                if by == "command":
                    client.execute("SET", "key", value)
                else:
                    script(["key"], [value])

            write("of the former master")
            name.target = successor.port
            with redis_py.Redis.from_url(own_redis.url) as admin:
                for command in demotion:
                    admin.execute_command(*command.split())
            with pytest.raises(redis_py.ResponseError):
                write("lost")
            assert client.execute("GET", "key") is None  # the successor has been told nothing yet
            write("of the successor")
            assert client.execute("GET", "key") == b"of the successor"
