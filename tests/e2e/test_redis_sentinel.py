"""Redis behind Sentinel: a master dies and another takes over, without a restart."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from flask.testing import FlaskClient
from pydantic import SecretStr
from redis import RedisError

from app import create_app
from tests.e2e.service import client_of_all_processes, running
from tests.redis_states import identify
from tests.redis_topologies import DebianRedis, Watched, part, sentinel
from tests.waiting import eventually
from user_service.cache.page_store import PageStore, RedisFailure
from user_service.cache.redis_client import redis_client
from user_service.settings import Settings
from user_service.web.policies.rate_limiter import Limit, RateLimiter
from user_service.web.services import services_of

URL = "/api/v1/users"
TIMEOUT = 0.3
# What a busy machine may add to the time-outs that a request meets; redis-py would wait for 5 s.
SLACK = 2.0


@pytest.fixture
def redis_servers(tmp_path: Path) -> Iterator[Watched]:
    with sentinel(tmp_path) as started:
        yield started


@pytest.fixture
def client(settings: Settings, redis_servers: Watched) -> Iterator[FlaskClient]:
    sentinels = {"redis_url": SecretStr(redis_servers.url), "redis_timeout": TIMEOUT}
    application = create_app(settings.model_copy(update=sentinels))
    yield application.test_client()
    services_of(application).close()


def user(name: str) -> dict[str, str]:
    return {"username": name, "email": f"{name}@example.com"}


def names(page: httpx.Response) -> list[str]:
    return [each["username"] for each in page.json()["users"]]


def seconds(call: Callable[[], object]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


def test_promoted_replica_serves_no_page_that_a_write_has_overtaken(
    tmp_path: Path, environment: dict[str, str], redis_servers: Watched
) -> None:
    """It has not heard of the last write, and holds the page and the generation before it."""
    sentinels = {"REDIS_URL": redis_servers.url, "REDIS_TIMEOUT": str(TIMEOUT)}
    with (
        running(tmp_path / "log", environment | sentinels) as service,
        client_of_all_processes(service) as http,
    ):
        pages: list[httpx.Response] = []

        def hit() -> bool:
            pages.append(http.get(URL))
            return pages[-1].headers["X-Cache"] == "HIT"

        assert http.post(URL, json=user("ada")).status_code == 201
        eventually(hit)
        with redis_servers.master.client() as client:
            assert client.execute_command("WAIT", 1, 5000) == 1
        part(redis_servers.master, redis_servers.replica)
        assert http.post(URL, json=user("grace")).status_code == 201
        redis_servers.master.kill()
        pages.clear()
        eventually(hit, timeout=30)
        assert redis_servers.replica.info("role") == "master"
        for _ in range(20):
            hit()
        assert {page.status_code for page in pages} == {200}
        assert {tuple(names(page)) for page in pages} == {("ada", "grace")}
        # With its breaker still open, a process would put the pages out of date a little later.
        eventually(lambda: "BYPASS" not in {http.get(URL).headers["X-Cache"] for _ in range(20)})
        assert http.post(URL, json=user("joan")).status_code == 201
        assert names(http.get(URL)) == ["ada", "grace", "joan"]


def test_promoted_replica_knows_limits_but_no_position_of_a_write(redis_servers: Watched) -> None:
    """The last write that moved the position on is one that it has not heard of."""
    redis = redis_client(redis_servers.url, timeout=TIMEOUT)
    store = PageStore(redis, identify, ttl=60, stale_ttl=60)
    limiter, limit = RateLimiter(redis, store.breaker), Limit("default", 1000, 3600)
    store.settle(store.current().generation, 10)
    assert [limiter.hit(limit, "ada").remaining for _ in range(3)] == [999, 998, 997]
    with redis_servers.master.client() as client:
        assert client.execute_command("WAIT", 1, 5000) == 1
    part(redis_servers.master, redis_servers.replica)
    store.replace_generation(20)
    assert store.current().lsn == 20
    redis_servers.master.kill()

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
def test_frozen_master_is_waited_for_once_and_left(
    client: FlaskClient, redis_servers: Watched
) -> None:
    assert client.post(URL, json=user("ada")).status_code == 201
    eventually(lambda: client.get(URL).headers["X-Cache"] == "HIT")
    redis_servers.master.freeze()
    for _ in range(5):
        assert seconds(lambda: client.get(URL)) < 2 * TIMEOUT + SLACK
    health = client.get("/health").get_json()
    assert (health["status"], health["redis"]) == ("degraded", "disconnected")
    eventually(lambda: client.get(URL).headers["X-Cache"] == "HIT", timeout=30)
    redis_servers.master.thaw()
    eventually(lambda: is_replica(redis_servers.master), timeout=30)
    assert client.post(URL, json=user("grace")).status_code == 201
    assert client.get(URL).get_json()["pagination"]["total"] == 2


@pytest.mark.slow
def test_frozen_sentinels_delay_only_new_connections_by_a_time_out_each(
    client: FlaskClient, redis_servers: Watched
) -> None:
    eventually(lambda: client.get(URL).headers["X-Cache"] == "HIT")
    for each in redis_servers.sentinels:
        each.freeze()
    assert client.get(URL).headers["X-Cache"] == "HIT"
    with closing(redis_client(redis_servers.url, timeout=TIMEOUT)) as another:

        def is_refused() -> None:
            with pytest.raises(RedisError):
                another.execute("GET", "key")

        assert seconds(is_refused) < len(redis_servers.sentinels) * TIMEOUT + SLACK
        redis_servers.sentinels[2].thaw()
        eventually(lambda: answers(lambda: another.execute("GET", "key")))


def is_replica(server: DebianRedis) -> bool:
    try:
        return server.info("role") == "slave"
    except RedisError:  # its connections are closed when it is demoted
        return False


def answers(call: Callable[[], object]) -> bool:
    try:
        call()
    except RedisError:
        return False
    return True
