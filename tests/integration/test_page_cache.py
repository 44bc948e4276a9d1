"""The page cache on a real Redis: hits, invalidation, and what must never be served."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis as redis_py
from flask.testing import FlaskClient

from app import create_app
from tests.responses import json_of
from tests.waiting import eventually
from user_service.cache.pages import CacheStatus, PageCache
from user_service.cache.store import GENERATION_KEY, PREFIX
from user_service.settings import Settings
from user_service.web.services import Services, services_of

URL = "/api/v1/users"


@pytest.fixture
def pages(services: Services) -> PageCache:
    return services.pages


def x_cache(client: FlaskClient, query: str = "") -> str:
    return client.get(URL + query).headers["X-Cache"]


def total(client: FlaskClient) -> int:
    number: int = json_of(client.get(URL))["pagination"]["total"]
    return number


def create(client: FlaskClient, name: str) -> None:
    body = {"username": name, "email": f"{name}@example.com"}
    assert client.post(URL, json=body).status_code == 201


@contextmanager
def commands_counted(redis: redis_py.Redis) -> Iterator[dict[str, int]]:
    """Yield a dictionary that holds, after the block, how often each Redis command was run."""
    redis.execute_command("CONFIG RESETSTAT")  # type: ignore[no-untyped-call]
    counts: dict[str, int] = {}
    yield counts
    stats = redis.info("commandstats")
    counts |= {name.removeprefix("cmdstat_"): figures["calls"] for name, figures in stats.items()}
    counts.pop("config|resetstat", None)
    counts.pop("info", None)


def test_second_read_is_a_hit_with_the_same_bytes(client: FlaskClient) -> None:
    create(client, "ada")
    first, second = client.get(URL), client.get(URL)
    assert (first.headers["X-Cache"], second.headers["X-Cache"]) == ("MISS", "HIT")
    assert first.data == second.data
    assert first.headers["Content-Type"] == second.headers["Content-Type"] == "application/json"


def test_pages_of_other_sizes_are_other_entries(client: FlaskClient) -> None:
    for query in ("?page=1&per_page=10", "?page=11&per_page=1", "?page=1&per_page=11"):
        assert x_cache(client, query) == "MISS"
    # Served as the same page, so the same entry.
    assert x_cache(client, "?per_page=100") == "MISS"
    assert x_cache(client, "?per_page=5000") == "HIT"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "", {"username": "grace", "email": "grace@example.com"}),
        ("PUT", "/1", {"username": "grace", "email": "grace@example.com"}),
        ("PATCH", "/1", {"username": "grace"}),
        ("DELETE", "/1", None),
    ],
)
def test_every_kind_of_write_is_seen_at_once(
    client: FlaskClient, method: str, path: str, body: dict[str, str] | None
) -> None:
    create(client, "ada")
    client.get(URL)
    assert x_cache(client) == "HIT"
    assert client.open(URL + path, method=method, json=body).status_code < 300
    assert x_cache(client) == "MISS"


def test_refused_writes_leave_the_cache_alone(client: FlaskClient) -> None:
    create(client, "ada")
    client.get(URL)
    assert client.post(URL, json={"username": "ADA", "email": "a@example.com"}).status_code == 409
    assert client.delete(f"{URL}/9").status_code == 404
    assert x_cache(client) == "HIT"


def test_write_costs_one_command_whatever_redis_holds(
    client: FlaskClient, redis: redis_py.Redis
) -> None:
    redis.mset({f"{PREFIX}{n}:50": "a page" for n in range(2_000)})
    redis.mset({f"other:{n}": "another's" for n in range(2_000)})
    client.get(URL)  # so that the connection is there
    with commands_counted(redis) as counts:
        create(client, "ada")
    assert counts == {"set": 1}


def test_hit_costs_one_command(client: FlaskClient, redis: redis_py.Redis) -> None:
    client.get(URL)
    with commands_counted(redis) as counts:
        assert x_cache(client) == "HIT"
    assert counts == {"mget": 1}


def test_page_read_before_a_write_and_stored_after_it_is_refused(
    client: FlaskClient, pages: PageCache
) -> None:
    def read_slowly_while_somebody_writes() -> bytes:
        pages.invalidate()
        return b"from before the write"

    body, status = pages.get_or_produce("1:50", read_slowly_while_somebody_writes)
    assert (body, status) == (b"from before the write", CacheStatus.MISS)
    assert pages.get_or_produce("1:50", lambda: b"fresh") == (b"fresh", CacheStatus.MISS)


def test_late_store_does_not_displace_the_page_stored_meanwhile(pages: PageCache) -> None:
    def overtaken() -> bytes:
        pages.invalidate()
        pages.get_or_produce("1:50", lambda: b"fresh")
        return b"from before the write"

    pages.get_or_produce("1:50", overtaken)
    assert pages.get_or_produce("1:50", lambda: b"unused") == (b"fresh", CacheStatus.HIT)


@pytest.mark.parametrize("loss", ["flush", "evict the generation"])
def test_generation_does_not_come_back_after_redis_lost_it(
    pages: PageCache, redis: redis_py.Redis, loss: str
) -> None:
    def overtaken_by_the_loss() -> bytes:
        redis.flushall() if loss == "flush" else redis.delete(GENERATION_KEY)
        pages.get_or_produce("2:50", lambda: b"makes a generation")
        pages.invalidate()
        return b"from before the write"

    pages.get_or_produce("1:50", overtaken_by_the_loss)
    assert pages.get_or_produce("1:50", lambda: b"fresh") == (b"fresh", CacheStatus.MISS)


def test_entries_run_into_their_ttl(
    client: FlaskClient, redis: redis_py.Redis, settings: Settings
) -> None:
    client.get(URL)
    assert 0 < redis.ttl(f"{PREFIX}1:50") <= settings.cache_stale_ttl
    assert redis.ttl(GENERATION_KEY) == -1


def test_without_redis_every_user_route_answers_the_same(settings: Settings) -> None:
    nowhere = settings.model_copy(update={"redis_url": None, "redis_port": 1})
    app = create_app(nowhere)
    client = app.test_client()
    try:
        create(client, "ada")
        assert x_cache(client) == "BYPASS"
        assert total(client) == 1
        assert client.patch(f"{URL}/1", json={"username": "grace"}).status_code == 200
        assert json_of(client.get(f"{URL}/1"))["username"] == "grace"
        assert client.delete(f"{URL}/1").status_code == 204
        assert total(client) == 0
        health = client.get("/health")
        assert (health.status_code, json_of(health)["status"]) == (200, "degraded")
        assert client.get("/health/ready").status_code == 200
    finally:
        services_of(app).close()


def test_failed_invalidation_stops_reading_until_it_is_made_up_for(
    client: FlaskClient, redis: redis_py.Redis
) -> None:
    create(client, "ada")
    client.get(URL)
    redis.config_set("maxmemory", "1")  # every write to Redis is refused: out of memory
    redis.config_set("maxmemory-policy", "noeviction")
    try:
        create(client, "grace")
        assert total(client) == 2
        assert x_cache(client) == "BYPASS"
    finally:
        redis.config_set("maxmemory", "0")
    eventually(lambda: x_cache(client) == "HIT")
    assert total(client) == 2


def test_two_applications_share_pages_and_invalidation(
    client: FlaskClient, settings: Settings
) -> None:
    other_app = create_app(settings)
    other = other_app.test_client()
    try:
        client.get(URL)
        assert x_cache(other) == "HIT"
        create(client, "ada")
        assert total(other) == 1
    finally:
        services_of(other_app).close()
