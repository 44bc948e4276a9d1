"""The client that each form of REDIS_URL makes, where nobody answers."""

import pytest
from pytest_mock import MockerFixture
from redis import RedisError

from tests.e2e.service import free_port
from user_service.cache import cluster
from user_service.cache.client import Changes, NoConnectionFree, Pool, RedisClient, _packed
from user_service.cache.connection import redis_client
from user_service.errors import Unavailable

SECRET = "1oak-of-the-2nd-grove"


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
@pytest.mark.parametrize("form", ["redis", "redis+cluster", "redis+sentinel"])
def test_server_that_is_away_is_an_error_of_redis(form: str, host: str) -> None:
    path = "/users" if form == "redis+sentinel" else ""
    client = redis_client(f"{form}://{host}:{free_port()}{path}", timeout=0.5)
    for _ in range(2):
        with pytest.raises(RedisError) as raised:
            client.get("key")
        assert not isinstance(raised.value, Unavailable)  # which a circuit breaker passes over


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{SECRET}@host/0?ssl=true",
        f"redis+sentinel://:{SECRET}@host/users?ssl=true",
        f"redis+cluster://:{SECRET}@host?ssl=true",
    ],
)
def test_option_that_redis_py_does_not_know_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="has an option that redis-py does not know") as refused:
        redis_client(url, timeout=0.5)
    assert SECRET not in str(refused.value)
    assert refused.value.__suppress_context__


@pytest.mark.parametrize(
    "url",
    [
        "redis://host/0?health_check_interval=5&max_connections=3&timeout=1",
        "rediss://host/0?ssl_cert_reqs=none",
        "unix:///run/redis.sock?db=1",
        "redis+sentinel://host/users?sentinel_password=x",
    ],
)
def test_options_that_it_knows_are_taken(url: str) -> None:
    redis_client(url, timeout=0.5)


def test_full_pool_says_nothing_of_redis() -> None:
    pool = Pool(max_connections=1, timeout=0.01)  # type: ignore[no-untyped-call]
    pool.pool.get()
    with pytest.raises(NoConnectionFree) as raised:
        RedisClient(pool, Changes()).get("key")
    assert isinstance(raised.value, Unavailable)


def test_cluster_without_slots_is_one_that_is_away(mocker: MockerFixture) -> None:
    mocker.patch.object(cluster, "RedisCluster", side_effect=IndexError)
    client = redis_client("redis+cluster://a,b", timeout=0.5)
    with pytest.raises(RedisError):
        client.get("key")


def test_waiting_for_a_cluster_keeps_nothing(mocker: MockerFixture) -> None:
    connect = mocker.patch.object(cluster, "RedisCluster", side_effect=IndexError)
    client = redis_client("redis+cluster://a,b,c", timeout=0.5)
    for _ in range(3):
        with pytest.raises(RedisError):
            client.get("key")
    nodes = [call.kwargs["startup_nodes"] for call in connect.call_args_list]
    assert [len(each) for each in nodes] == [2, 2, 2]
    assert len({id(node) for each in nodes for node in each}) == 6  # RedisCluster adds to them


def test_command_is_packed_as_redis_reads_it() -> None:
    packed = _packed("SCRIPT LOAD", "ä", b"\xff\r\n", 7)
    assert packed == [
        b"*5\r\n$6\r\nSCRIPT\r\n$4\r\nLOAD\r\n$2\r\n\xc3\xa4\r\n$3\r\n\xff\r\n\r\n$1\r\n7\r\n"
    ]
