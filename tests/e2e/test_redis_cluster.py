"""Redis Cluster: pages are in one slot, whose master may die, freeze or hand it on."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest
from flask.testing import FlaskClient
from pydantic import SecretStr
from redis import ConnectionError as RedisConnectionError
from redis.crc import key_slot

from app import create_app
from tests.e2e.service import client_of_all_processes, running
from tests.redis_topologies import (
    PASSWORD,
    Cluster,
    ClusterNode,
    DebianRedis,
    cluster,
    joined,
    part,
    run,
)
from tests.waiting import eventually
from user_service.cache.redis_client import redis_client
from user_service.settings import Settings
from user_service.web.services import services_of

URL = "/api/v1/users"
TIMEOUT = 0.3
# What a busy machine may add to the time-outs that a request meets; redis-py would wait for 5 s.
SLACK = 2.0
PAGES = "users:{pages}:"
SLOT = key_slot(PAGES.encode())


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("cluster"), PAGES) as nodes:
        yield nodes


@pytest.fixture
def nodes(started: Cluster) -> Cluster:
    """The cluster, whole and empty. The test that breaks it for good is the last."""
    for each in started.masters:
        run(each, "FLUSHALL")
    return started


@pytest.fixture
def client(settings: Settings, nodes: Cluster) -> Iterator[FlaskClient]:
    with process(settings, nodes) as client:
        yield client


@contextmanager
def process(settings: Settings, nodes: Cluster) -> Iterator[FlaskClient]:
    """Run the service as a process of its own does, with its own map of the Cluster."""
    clustered = {"redis_url": SecretStr(nodes.url), "redis_timeout": TIMEOUT}
    application = create_app(settings.model_copy(update=clustered))
    yield application.test_client()
    services_of(application).close()


def user(name: str) -> dict[str, str]:
    return {"username": name, "email": f"{name}@example.com"}


def total(client: FlaskClient) -> int:
    number: int = client.get(URL).get_json()["pagination"]["total"]
    return number


def cache_says(client: FlaskClient) -> str:
    return client.get(URL).headers["X-Cache"]


def seconds(call: Callable[[], object]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


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
    assert client.post(URL, json=user("ada")).status_code == 201
    eventually(lambda: cache_says(client) == "HIT")

    begin_to_move(source, target)
    assert total(client) == 1
    assert client.post(URL, json=user("grace")).status_code == 201
    assert total(client) == 2
    move_keys(source, target)
    assert total(client) == 2
    assert client.post(URL, json=user("joan")).status_code == 201
    assert total(client) == 3
    end_move(source, target)
    eventually(lambda: cache_says(client) == "HIT")
    assert client.post(URL, json=user("mary")).status_code == 201
    assert total(client) == 4
    assert run(target, f"KEYS {PAGES}*:generation")
    move(target, source)
    eventually(lambda: cache_says(client) == "HIT")
    assert total(client) == 4


def test_write_of_a_process_with_an_old_map_is_seen_by_the_others_at_once(
    client: FlaskClient, settings: Settings, nodes: Cluster, target: DebianRedis
) -> None:
    eventually(lambda: cache_says(client) == "HIT")
    move(nodes.home, target)
    try:
        with process(settings, nodes) as other:
            eventually(lambda: cache_says(other) == "HIT")
            assert client.post(URL, json=user("ada")).status_code == 201
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


@pytest.mark.slow
def test_frozen_node_is_waited_for_once_and_bypassed(client: FlaskClient, nodes: Cluster) -> None:
    assert client.post(URL, json=user("ada")).status_code == 201
    eventually(lambda: cache_says(client) == "HIT")
    nodes.replica.kill()  # so that it does not take over
    nodes.home.freeze()
    for _ in range(5):
        assert seconds(lambda: client.get(URL)) < TIMEOUT + SLACK
    assert cache_says(client) == "BYPASS"
    health = client.get("/health").get_json()
    assert (health["status"], health["redis"]) == ("degraded", "disconnected")
    assert client.post(URL, json=user("grace")).status_code == 201
    # The others find out, and refuse: CLUSTERDOWN, at once.
    other = next(each for each in nodes.masters if each is not nodes.home)
    eventually(lambda: "cluster_state:fail" in str(run(other, "CLUSTER INFO")))
    assert client.get("/health").get_json()["redis"] == "disconnected"
    nodes.home.thaw()
    eventually(lambda: cache_says(client) == "HIT", timeout=30)
    assert total(client) == 2
    nodes.replica.start()
    eventually(lambda: nodes.replica.info("master_link_status") == "up")


def test_page_is_refilled_once_however_many_ask_for_it_at_once(
    client: FlaskClient, nodes: Cluster
) -> None:
    assert total(client) == 0
    assert client.post(URL, json=user("ada")).status_code == 201
    with ThreadPoolExecutor(8) as threads:
        another = client.application.test_client
        pages = list(threads.map(lambda _: another().get(URL), range(32)))
    assert {page.get_json()["pagination"]["total"] for page in pages} == {1}
    assert "BYPASS" not in {page.headers["X-Cache"] for page in pages}


@pytest.mark.slow
def test_promoted_replica_serves_no_page_that_a_write_has_overtaken(
    tmp_path: Path, environment: dict[str, str], nodes: Cluster
) -> None:
    """It has not heard of the last write, and holds the page and the generation before it."""
    clustered = {"REDIS_URL": nodes.url, "REDIS_TIMEOUT": str(TIMEOUT)}
    with (
        running(tmp_path / "log", environment | clustered) as service,
        client_of_all_processes(service) as http,
    ):
        pages: list[httpx.Response] = []

        def hit() -> bool:
            pages.append(http.get(URL))
            return pages[-1].headers["X-Cache"] == "HIT"

        assert http.post(URL, json=user("ada")).status_code == 201
        eventually(hit)
        with nodes.home.client() as redis:
            assert redis.execute_command("WAIT", 1, 5000) == 1
        part(nodes.home, nodes.replica)
        assert http.post(URL, json=user("grace")).status_code == 201
        nodes.home.kill()
        pages.clear()
        eventually(hit, timeout=30)
        assert nodes.replica.info("role") == "master"
        for _ in range(20):
            hit()
        assert {page.status_code for page in pages} == {200}
        totals = {page.json()["pagination"]["total"] for page in pages}
        assert totals == {2}
        assert max(page.elapsed.total_seconds() for page in pages) < 2 * TIMEOUT + SLACK
        assert {page.headers["X-Cache"] for page in pages} >= {"BYPASS", "MISS", "HIT"}
        # With its breaker still open, a process would put the pages out of date a little later.
        eventually(lambda: "BYPASS" not in {http.get(URL).headers["X-Cache"] for _ in range(20)})
        assert http.post(URL, json=user("joan")).status_code == 201
        assert http.get(URL).json()["pagination"]["total"] == 3
