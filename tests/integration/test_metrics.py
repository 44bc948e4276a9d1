"""``/metrics``: the counts of the pool, the cache and the breakers on real servers."""

import gzip
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from platform import python_version

import psycopg2
import pytest
import redis as redis_py
from flask import Flask
from flask.testing import FlaskClient
from prometheus_client.openmetrics import parser as openmetrics
from psycopg2.extensions import cursor

from tests import scrapes
from tests.integration import queries
from tests.integration.users import URL, USER, create
from tests.links import linked
from tests.redis_states import generation_key
from tests.responses import Serve
from tests.waiting import eventually
from user_service.cache.page_cache import PageCache
from user_service.settings import Settings
from user_service.web.services import services_of


def value(client: FlaskClient, name: str, **labels: str) -> float:
    return scrapes.value(client.get("/metrics").text, name, **labels)


@contextmanager
def users_locked(database_url: str) -> Iterator[None]:
    """Lock the users for all others during a block."""
    with closing(psycopg2.connect(database_url)) as connection, connection:
        connection.cursor().execute("LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
        yield


def test_is_text_for_prometheus(client: FlaskClient) -> None:
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert value(client, "http_requests_in_flight") == 1  # the scrape itself
    asked = {"route": "/metrics", "method": "GET", "status": "200"}
    assert value(client, "http_request_duration_seconds_count", **asked) == 2


OPENMETRICS = "application/openmetrics-text"


@pytest.mark.parametrize("odd", ["text/plain;version=x", f"{OPENMETRICS};version=x"])
def test_scrape_may_be_openmetrics_and_compressed(client: FlaskClient, odd: str) -> None:
    headers = {"Accept": f"{OPENMETRICS};version=1.0.0,*/*;q=0.1"}
    answer = client.get("/metrics", headers={**headers, "Accept-Encoding": "gzip"})
    assert answer.headers["Content-Encoding"] == "gzip"
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert answer.headers["Vary"] == "Accept, Accept-Encoding"
    families = openmetrics.text_string_to_metric_families(gzip.decompress(answer.data).decode())
    assert "user_service_retries" in {family.name for family in families}
    for accept in (odd, f"{OPENMETRICS};q=0,*/*", "*/*"):
        plain = client.get("/metrics", headers={"Accept": accept, "Accept-Encoding": "gzip;q=0"})
        assert plain.status_code == 200
        assert "Content-Encoding" not in plain.headers
        assert plain.headers["Content-Type"].startswith(OPENMETRICS) == accept.startswith(
            f"{OPENMETRICS};v"
        )


def test_build_info_says_what_health_says(serving: Serve) -> None:
    client = serving(git_commit="abc123")
    health = client.get("/health").get_json()
    assert health["commit"] == "abc123"
    labels = {"version": health["version"], "commit": "abc123", "python": python_version()}
    assert value(client, "build_info", **labels) == 1


def test_failures_of_the_api_are_exposed_with_0_before_the_first_one(client: FlaskClient) -> None:
    exposition = client.get("/metrics").text
    for status in ("500", "503"):
        for route, method in ((URL, "GET"), (URL, "POST"), (f"{URL}/<user_id:user_id>", "PUT")):
            labels = {"route": route, "method": method, "status": status}
            name = "http_request_duration_seconds_count"
            assert scrapes.value(exposition, name, **labels) == 0


def test_cache_counts_hits_misses_and_refused_stores(app: Flask, client: FlaskClient) -> None:
    pages: PageCache = services_of(app).pages

    def read_during_a_write(_lsn: int | None) -> bytes:
        pages.invalidate()
        return b"old"

    for _ in range(3):
        client.get(URL)
    assert value(client, "page_cache_requests_total", result="miss") == 1
    assert value(client, "page_cache_requests_total", result="hit") == 2
    pages.get_or_produce("page", read_during_a_write)
    assert value(client, "page_cache_stores_refused_total") == 1


def test_cache_counts_bypasses_without_redis(serving: Serve) -> None:
    client = serving(redis_url="redis://127.0.0.1:1")
    for _ in range(3):
        client.get(URL)
    create(client, "ada")
    assert value(client, "page_cache_requests_total", result="bypass") == 3
    assert value(client, "page_cache_invalidation_failures_total") == 1
    assert value(client, "circuit_breaker_state", dependency="redis") == 2
    assert value(client, "circuit_breaker_openings_total", dependency="redis") == 1
    assert value(client, "circuit_breaker_state", dependency="database") == 0


def test_database_away_opens_the_breaker_and_serves_stale_pages_unless_switched_off(
    database_url: str, serving: Serve, redis: redis_py.Redis
) -> None:
    with linked(database_url) as (link, url):
        client, off = (
            serving(database_url=url, retry_attempts=0, cache_stale_ttl=seconds)
            for seconds in (300, 0)
        )
        create(client, "ada")
        before = client.get(URL)
        assert off.get(URL).data == before.data
        link.refuse()
        redis.delete(generation_key(redis))
        for _ in range(6):
            stale = client.get(URL)
            assert (stale.status_code, stale.headers["X-Cache"]) == (200, "STALE")
            assert stale.data == before.data
        assert off.get(URL).status_code == 503
        assert value(client, "page_cache_requests_total", result="stale") == 6
        assert value(client, "page_cache_requests_total", result="miss") == 1
        assert value(client, "circuit_breaker_state", dependency="database") == 2
        assert value(client, "pool_connections_in_use", pool="database") == 0
        for path in (f"{URL}?page=2", USER, "/health/ready"):
            assert client.get(path).status_code == 503
        assert value(client, "ready") == 0


def test_pool_counts_waiting_requests_and_timeouts(serving: Serve, database_url: str) -> None:
    client = serving(db_pool_size=1, db_pool_timeout=0.3)

    def of_pool(name: str) -> float:
        return value(client, f"pool_{name}", pool="database")

    assert client.get(USER).status_code == 404
    assert of_pool("checkout_duration_seconds_count") == 1
    with ThreadPoolExecutor(2) as threads:
        with users_locked(database_url):
            own = [client.application.test_client() for _ in range(2)]
            asking = [threads.submit(each.get, USER) for each in own]
            eventually(lambda: of_pool("requests_waiting") == 1)
            assert of_pool("connections_in_use") == 1
            assert value(client, "http_requests_in_flight") == 3
            eventually(lambda: any(each.done() for each in asking))
        assert sorted(each.result().status_code for each in asking) == [404, 503]
    assert of_pool("checkout_timeouts_total") == 1
    assert of_pool("requests_waiting") == 0
    assert of_pool("connections_in_use") == 0
    assert of_pool("connections_max") == 1
    assert of_pool("checkout_duration_seconds_count") == 3
    assert of_pool("checkout_duration_seconds_sum") > 0.2  # of 0.3, or a little less


def test_replica_and_primary_have_separate_series(settings: Settings, serving: Serve) -> None:
    # This server is no standby, so reads try it first and then use the primary.
    client = serving(database_replica_url=settings.database_dsn, db_pool_size=3)
    create(client, "ada")
    names = ("database", "replica")
    counted = "pool_checkout_duration_seconds_count"
    before = [value(client, counted, pool=name) for name in names]
    assert client.get(USER).status_code == 200
    after = [value(client, counted, pool=name) for name in names]
    # The primary gives its position and then the user; the replica is tried in between.
    assert [b - a for a, b in zip(before, after, strict=True)] == [2, 1]
    for name in names:
        assert value(client, "pool_connections_max", pool=name) == 3
        assert value(client, "pool_connections_in_use", pool=name) == 0
    assert value(client, "circuit_breaker_state", dependency="replica") == 0


def test_connection_lost_in_a_query_is_replaced_and_the_call_recovers(
    serving: Serve, database_url: str, admin: cursor
) -> None:
    client = serving(retry_delay=0)
    with ThreadPoolExecutor(1) as threads:
        with users_locked(database_url):
            asking = threads.submit(client.application.test_client().get, USER)
            terminated = (
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE wait_event_type = 'Lock'"
            )
            eventually(lambda: queries.value(admin, terminated) == 1)
        assert asking.result().status_code == 404
    assert value(client, "pool_connections_replaced_total", pool="database") == 1
    assert value(client, "retries_total", outcome="recovered") == 1
