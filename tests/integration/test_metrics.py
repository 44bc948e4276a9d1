"""``/metrics``: the counts of the pool, the cache and the breakers on real servers."""

import gzip
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from urllib.parse import urlsplit

import psycopg2
import pytest
import redis as redis_py
from flask import Flask
from flask.testing import FlaskClient
from prometheus_client.openmetrics import parser as openmetrics
from psycopg2.extensions import cursor
from pydantic import SecretStr

from app import create_app
from tests import scrapes
from tests.faults.harness.proxy import Proxy
from tests.redis_states import generation_key
from tests.waiting import eventually
from user_service.cache.page_cache import PageCache
from user_service.settings import Settings
from user_service.web.services import services_of

URL = "/api/v1/users"
ADA = {"username": "ada", "email": "ada@example.com"}


def value(client: FlaskClient, name: str, **labels: str) -> float:
    return scrapes.value(client.get("/metrics").text, name, **labels)


@contextmanager
def serving(settings: Settings, **changes: object) -> Iterator[FlaskClient]:
    app = create_app(settings.model_copy(update=changes))
    yield app.test_client()
    services_of(app).close()


@contextmanager
def users_locked(database_url: str) -> Iterator[cursor]:
    """Lock the users for all others during a block, and commit the changes of this cursor."""
    with closing(psycopg2.connect(database_url)) as connection, connection:
        cursor = connection.cursor()
        cursor.execute("LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
        yield cursor


def test_is_text_for_prometheus(client: FlaskClient) -> None:
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert value(client, "http_requests_in_flight") == 1  # the scrape itself
    asked = {"route": "/metrics", "method": "GET", "status": "200"}
    assert value(client, "http_request_duration_seconds_count", **asked) == 2


@pytest.mark.parametrize("odd", ["text/plain;version=x", "application/openmetrics-text;version=x"])
def test_scrape_may_be_openmetrics_and_compressed(client: FlaskClient, odd: str) -> None:
    headers = {"Accept": "application/openmetrics-text;version=1.0.0,*/*;q=0.1"}
    answer = client.get("/metrics", headers={**headers, "Accept-Encoding": "gzip"})
    assert answer.headers["Content-Encoding"] == "gzip"
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert answer.headers["Vary"] == "Accept, Accept-Encoding"
    families = openmetrics.text_string_to_metric_families(gzip.decompress(answer.data).decode())
    assert "user_service_retries" in {family.name for family in families}
    plain = client.get("/metrics", headers={"Accept": odd, "Accept-Encoding": "gzip;q=0"})
    assert plain.status_code == 200
    assert "Content-Encoding" not in plain.headers


def test_build_info_says_what_health_says(settings: Settings) -> None:
    with serving(settings, git_commit="abc123") as client:
        health = client.get("/health").get_json()
        assert health["commit"] == "abc123"
        (labels,) = [
            dict(labels)
            for name, labels in scrapes.samples(client.get("/metrics").text)
            if name == "user_service_build_info"
        ]
        assert (labels["commit"], labels["version"]) == (health["commit"], health["version"])


def test_failures_of_the_api_are_exposed_with_0_before_the_first_one(client: FlaskClient) -> None:
    exposition = client.get("/metrics").text
    for status in ("500", "503"):
        for route, method in ((URL, "GET"), (URL, "POST"), (f"{URL}/<user_id:user_id>", "PUT")):
            labels = {"route": route, "method": method, "status": status}
            name = "http_request_duration_seconds_count"
            assert scrapes.value(exposition, name, **labels) == 0


def test_cache_counts_hits_and_misses(client: FlaskClient) -> None:
    for _ in range(3):
        client.get(URL)
    assert value(client, "page_cache_requests_total", result="miss") == 1
    assert value(client, "page_cache_requests_total", result="hit") == 2


def test_cache_counts_bypasses_without_redis(settings: Settings) -> None:
    with serving(settings, redis_url=None, redis_host="127.0.0.1", redis_port=1) as client:
        for _ in range(3):
            client.get(URL)
        assert client.post(URL, json=ADA).status_code == 201
        assert value(client, "page_cache_requests_total", result="bypass") == 3
        assert value(client, "page_cache_invalidation_failures_total") == 1
        assert value(client, "circuit_breaker_state", dependency="redis") == 2
        assert value(client, "circuit_breaker_openings_total", dependency="redis") == 1
        assert value(client, "circuit_breaker_state", dependency="database") == 0


def test_page_read_before_a_write_is_counted_as_refused(
    app: Flask, client: FlaskClient, redis: redis_py.Redis
) -> None:
    pages: PageCache = services_of(app).pages

    def read_slowly(_lsn: int | None) -> bytes:
        pages.invalidate()
        return b"old"

    pages.get_or_produce("page", read_slowly)
    assert value(client, "page_cache_stores_refused_total") == 1


def test_database_away_opens_the_breaker_and_serves_stale_pages(
    settings: Settings, redis: redis_py.Redis
) -> None:
    database = urlsplit(settings.database_dsn)
    assert database.port
    with Proxy(database.port) as link:
        through = settings.database_dsn.replace(f":{database.port}/", f":{link.port}/")
        changes = {"database_url": SecretStr(through), "retry_attempts": 0}
        with serving(settings, **changes) as client:
            client.get(URL)
            link.refuse()
            redis.delete(generation_key(redis))
            for _ in range(6):
                assert client.get(URL).headers["X-Cache"] == "STALE"
            assert client.get("/metrics").status_code == 200
            assert value(client, "page_cache_requests_total", result="stale") == 6
            assert value(client, "circuit_breaker_state", dependency="database") == 2
            assert value(client, "pool_connections_in_use", pool="database") == 0
            assert client.get("/health/ready").status_code == 503
            assert value(client, "ready") == 0


def test_pool_counts_waiting_requests_and_timeouts(settings: Settings, database_url: str) -> None:
    with serving(settings, db_pool_size=1, db_pool_timeout=0.3) as client:
        app = client.application
        assert client.get(f"{URL}/1").status_code == 404
        assert value(client, "pool_checkout_duration_seconds_count", pool="database") == 1
        with ThreadPoolExecutor(2) as threads:
            with users_locked(database_url):
                asking = [threads.submit(app.test_client().get, f"{URL}/1") for _ in range(2)]
                eventually(lambda: value(client, "pool_requests_waiting", pool="database") == 1)
                assert value(client, "pool_connections_in_use", pool="database") == 1
                assert value(client, "http_requests_in_flight") == 3
                eventually(lambda: any(each.done() for each in asking))
            assert sorted(each.result().status_code for each in asking) == [404, 503]
        assert value(client, "pool_checkout_timeouts_total", pool="database") == 1
        assert value(client, "pool_requests_waiting", pool="database") == 0
        assert value(client, "pool_connections_in_use", pool="database") == 0
        assert value(client, "pool_connections_max", pool="database") == 1
        assert value(client, "pool_checkout_duration_seconds_count", pool="database") == 3
        assert value(client, "pool_checkout_duration_seconds_sum", pool="database") > 0.29


def test_replica_and_primary_have_separate_series(settings: Settings) -> None:
    # This server is no standby, so reads try it first and then use the primary.
    url = SecretStr(settings.database_dsn)
    with serving(settings, database_replica_url=url, db_pool_size=3) as client:
        assert client.post(URL, json=ADA).status_code == 201
        names = ("database", "replica")
        counted = "pool_checkout_duration_seconds_count"
        before = [value(client, counted, pool=name) for name in names]
        assert client.get(f"{URL}/1").status_code == 200
        after = [value(client, counted, pool=name) for name in names]
        # The primary gives its position and then the user; the replica is tried in between.
        assert [b - a for a, b in zip(before, after, strict=True)] == [2, 1]
        for name in names:
            assert value(client, "pool_connections_max", pool=name) == 3
            assert value(client, "pool_connections_in_use", pool=name) == 0
        assert value(client, "circuit_breaker_state", dependency="replica") == 0


def test_connection_lost_in_a_query_is_replaced_and_the_call_recovers(
    settings: Settings, database_url: str
) -> None:
    with serving(settings, retry_delay=0) as client:
        app, statuses = client.application, []
        asking = threading.Thread(
            target=lambda: statuses.append(app.test_client().get(f"{URL}/1").status_code)
        )
        with users_locked(database_url):
            asking.start()
            eventually(lambda: terminated(database_url) == 1)
        asking.join()
        assert statuses == [404]
        assert value(client, "pool_connections_replaced_total", pool="database") == 1
        assert value(client, "retries_total", outcome="recovered") == 1


def terminated(database_url: str) -> int:
    """End the connections that wait for a lock; return their number."""
    with closing(psycopg2.connect(database_url)) as connection:
        cursor = connection.cursor()
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        )
        return cursor.rowcount


@pytest.mark.parametrize("secret", ["password", "redis://", "postgresql://"])
def test_contains_no_secret(client: FlaskClient, settings: Settings, secret: str) -> None:
    client.get(f"{URL}?{secret}={settings.database_dsn}")
    client.get(f"/{secret}/{settings.database_dsn}")
    assert secret not in client.get("/metrics").text
