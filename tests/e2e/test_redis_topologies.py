"""Redis behind Sentinel and as a Cluster: a master dies, freezes or hands its slot on."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing
from pathlib import Path

import httpx
import pytest
from flask.testing import FlaskClient
from redis import ConnectionError as RedisConnectionError
from redis.crc import key_slot

from tests.e2e.service import Start
from tests.integration.users import URL, total
from tests.redis_states import identify
from tests.redis_topologies import (
    PASSWORD,
    Cluster,
    ClusterNode,
    DebianRedis,
    Watched,
    cluster,
    cut_off,
    joined,
    run,
    sentinel,
)
from tests.responses import Serve
from tests.waiting import eventually
from user_service.cache.page_store import PageStore, RedisFailure
from user_service.cache.redis_client import redis_client
from user_service.settings import Settings
from user_service.web.policies.rate_limiter import Limit, RateLimiter

TIMEOUT = 0.3
# What a busy machine may add to the time-outs that a request meets; redis-py would wait for 5 s.
SLACK = 2.0
PAGES = "users:{pages}:"
# A connection for each request, which any of the processes takes.
EACH_ALONE = {"Connection": "close"}
SLOT = key_slot(PAGES.encode())


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    with sentinel(tmp_path) as started:
        yield started


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("cluster"), PAGES) as nodes:
        yield nodes


@pytest.fixture
def nodes(started: Cluster) -> Cluster:
    """A Cluster without keys."""
    for each in started.masters:
        run(each, "FLUSHALL")
    return started


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"redis_timeout": TIMEOUT})


@pytest.fixture
def client(serving: Serve, nodes: Cluster) -> FlaskClient:
    return serving(redis_url=nodes.url)


def create(client: FlaskClient | httpx.Client, name: str) -> None:
    body = {"username": name, "email": f"{name}@example.com"}
    assert client.post(URL, json=body).status_code == 201


def hits(client: FlaskClient | httpx.Client) -> bool:
    return client.get(URL).headers["X-Cache"] == "HIT"


@pytest.fixture(params=["a node on the map", "a new node"])
def target(request: pytest.FixtureRequest, tmp_path: Path, nodes: Cluster) -> Iterator[DebianRedis]:
    """The node to which the slot of the pages moves."""
    if request.param == "a node on the map":
        yield next(each for each in nodes.masters if each is not nodes.home)
    else:
        with joined(tmp_path / "new", nodes) as node:
            yield node


def test_slot_that_moves_to_another_node_is_followed(
    client: FlaskClient, nodes: Cluster, target: DebianRedis
) -> None:
    """While it moves, pages may be read from the database, and none is old."""
    source = nodes.home
    create(client, "ada")
    eventually(lambda: hits(client))
    begin_to_move(source, target)
    assert total(client) == 1
    create(client, "grace")
    assert total(client) == 2
    move_keys(source, target)
    assert total(client) == 2
    create(client, "joan")
    assert total(client) == 3
    end_move(source, target)
    eventually(lambda: hits(client))
    create(client, "mary")
    assert total(client) == 4
    assert run(target, f"KEYS {PAGES}*:generation")
    move(target, source)
    eventually(lambda: hits(client))
    assert total(client) == 4


def test_write_of_a_process_with_an_old_map_is_seen_by_the_others_at_once(
    client: FlaskClient, serving: Serve, nodes: Cluster, target: DebianRedis
) -> None:
    eventually(lambda: hits(client))
    move(nodes.home, target)
    try:
        other = serving(redis_url=nodes.url)  # with a map of its own
        eventually(lambda: hits(other))
        create(client, "ada")
        assert total(other) == 1
    finally:
        move(target, nodes.home)


def move(source: DebianRedis, target: DebianRedis) -> None:
    begin_to_move(source, target)
    move_keys(source, target)
    end_move(source, target)


def begin_to_move(source: DebianRedis, target: DebianRedis) -> None:
    run(target, f"CLUSTER SETSLOT {SLOT} IMPORTING {run(source, 'CLUSTER MYID')}")
    run(source, f"CLUSTER SETSLOT {SLOT} MIGRATING {run(target, 'CLUSTER MYID')}")


def end_move(source: DebianRedis, target: DebianRedis) -> None:
    owner = run(target, "CLUSTER MYID")
    for each in (target, source):
        run(each, f"CLUSTER SETSLOT {SLOT} NODE {owner}")


def move_keys(source: DebianRedis, target: DebianRedis) -> None:
    keys = run(source, f"CLUSTER GETKEYSINSLOT {SLOT} 100")
    assert isinstance(keys, list)
    with source.client() as redis:
        redis.migrate("127.0.0.1", target.port, keys, 0, 5000, auth=PASSWORD)


def test_cluster_without_slots_is_one_that_is_away(tmp_path: Path) -> None:
    with ClusterNode(tmp_path / "node") as node:
        url = f"redis+cluster://:{PASSWORD}@127.0.0.1:{node.port}"
        with closing(redis_client(url, timeout=10)) as client, pytest.raises(RedisConnectionError):
            client.execute("GET", "key")


def test_page_is_refilled_once_however_many_ask_for_it_at_once(client: FlaskClient) -> None:
    assert total(client) == 0
    create(client, "ada")
    with ThreadPoolExecutor(8) as threads:
        another = client.application.test_client
        pages = list(threads.map(lambda _: another().get(URL), range(32)))
    assert {page.get_json()["pagination"]["total"] for page in pages} == {1}
    assert "BYPASS" not in {page.headers["X-Cache"] for page in pages}


@pytest.mark.parametrize("kind", ["sentinel", pytest.param("cluster", marks=pytest.mark.slow)])
def test_promoted_replica_serves_no_page_that_a_write_has_overtaken(
    start: Start, tmp_path: Path, kind: str
) -> None:
    """It has not heard of the last write, and holds the page and the generation before it."""
    servers: AbstractContextManager[Watched | Cluster]
    servers = sentinel(tmp_path) if kind == "sentinel" else cluster(tmp_path, PAGES)
    with servers as redis:
        master = redis.master if isinstance(redis, Watched) else redis.home
        with (
            start(REDIS_URL=redis.url, REDIS_TIMEOUT=str(TIMEOUT)) as service,
            httpx.Client(base_url=service.url, timeout=20, headers=EACH_ALONE) as http,
        ):
            create(http, "ada")
            eventually(lambda: hits(http))
            cut_off(master, redis.replica)
            create(http, "grace")
            master.kill()
            pages: list[httpx.Response] = []

            def hit() -> bool:
                pages.append(http.get(URL))
                return pages[-1].headers["X-Cache"] == "HIT"

            eventually(hit, timeout=30)
            assert redis.replica.info("role") == "master"
            for _ in range(20):
                hit()
            assert {page.status_code for page in pages} == {200}
            assert {page.json()["pagination"]["total"] for page in pages} == {2}
            # A process with an open breaker puts the pages out of date a little later.
            eventually(lambda: all(hits(http) for _ in range(20)))
            create(http, "joan")
            assert http.get(URL).json()["pagination"]["total"] == 3


def test_promoted_replica_knows_limits_but_no_position_of_a_write(watched: Watched) -> None:
    """The last write that moved the position on is one that it has not heard of."""
    redis = redis_client(watched.url, timeout=TIMEOUT)
    store = PageStore(redis, identify, ttl=60, stale_ttl=60)
    limiter, limit = RateLimiter(redis, store.breaker), Limit("default", 1000, 3600)
    store.settle(store.current().generation, 10)
    assert [limiter.hit(limit, "ada").remaining for _ in range(3)] == [999, 998, 997]
    cut_off(watched.master, watched.replica)
    store.replace_generation(20)
    assert store.current().lsn == 20
    watched.master.kill()
    positions: list[int | None] = []

    def knows_again() -> bool:
        limiter.hit(limit, "grace")  # never raises
        try:
            positions.append(store.current().lsn)
        except RedisFailure:
            return False
        return True

    eventually(knows_again, timeout=30)
    assert positions == [None]
    assert limiter.hit(limit, "ada").remaining == 996
    store.close()


@pytest.mark.slow
def test_frozen_master_is_waited_for_once_and_left(serving: Serve, watched: Watched) -> None:
    client = serving(redis_url=watched.url)
    create(client, "ada")
    eventually(lambda: hits(client))
    watched.master.freeze()
    for _ in range(5):
        began = time.monotonic()
        client.get(URL)
        assert time.monotonic() - began < 2 * TIMEOUT + SLACK
    health = client.get("/health").get_json()
    assert (health["status"], health["redis"]) == ("degraded", "disconnected")
    eventually(lambda: hits(client), timeout=30)
    watched.master.thaw()
    # It is not asked itself: its connections are closed when it is demoted.
    eventually(lambda: watched.replica.info("connected_slaves") == 1, timeout=30)
    create(client, "grace")
    assert total(client) == 2


@pytest.mark.slow
def test_node_that_is_the_master_again_serves_no_page_that_a_write_has_overtaken(
    tmp_path: Path,
) -> None:
    """A process that saw it as the master before still has a connection to it."""
    with cluster(tmp_path, PAGES) as nodes:
        first, second = nodes.home, nodes.replica
        reader, writer = (
            PageStore(redis_client(nodes.url, timeout=TIMEOUT), identify, ttl=60, stale_ttl=60)
            for _ in range(2)
        )
        assert reader.look_up("page").body is None
        run(second, "CLUSTER FAILOVER")
        eventually(lambda: first.info("role") == "slave", timeout=30)
        eventually(lambda: first.info("master_link_status") == "up", timeout=30)
        generation = reader.look_up("page").generation
        assert reader.store("page", generation, b"old")
        cut_off(second, first)
        writer.replace_generation()
        run(first, "CLUSTER FAILOVER TAKEOVER")
        eventually(lambda: second.info("role") == "slave", timeout=30)
        assert reader.look_up("page").body is None
        reader.close()
        writer.close()
