"""What pages.lua promises, in its image: pages as the service would answer them, and no others."""

import json
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import httpx
import pytest
import redis as redis_py

from dev.ports import free_port
from tests import scrapes
from tests.e2e.compose import assert_is_confined, started_project
from tests.e2e.edge import edge, hits, permit
from tests.e2e.gateway import Gateway
from tests.e2e.service import RunningService, Start
from tests.redis_states import generation_key, promote, read_only
from tests.waiting import eventually
from user_service.web.requests.schemas import ListQuery
from user_service.web.requests.validation import parse_query

URL = "/api/v1/users"
# Leaves a request to the service.
OF_THE_SERVICE = {"traceparent": "00-1-1-00"}
pytestmark = pytest.mark.timeout(180)  # the first build of the image counts too


@pytest.fixture
def service(start: Start) -> Iterator[RunningService]:
    with start(GATEWAY_PAGES="true") as started:
        yield started


@pytest.fixture
def edged(tmp_path: Path, service: RunningService, redis: redis_py.Redis) -> Iterator[Gateway]:
    permit(redis)
    port = redis.get_connection_kwargs()["port"]
    with edge(tmp_path / "edge", service.port, port) as started:
        yield started


@pytest.fixture
def http(edged: Gateway) -> Iterator[httpx.Client]:
    plain = {"Accept-Encoding": "identity"}
    with httpx.Client(base_url=edged.url, verify=False, timeout=20, headers=plain) as client:
        for n in range(12):
            user = {"username": f"user {n}", "email": f"user{n}@example.com"}
            assert client.post(URL, json=user).status_code == 201
        yield client


def of_the_edge(
    gateway: Gateway, http: httpx.Client, request: httpx.Request, tries: int = 20
) -> httpx.Response | None:
    """Return the response if the edge makes it itself, which one request a second is not."""
    for _ in range(tries):
        before = hits(gateway, http)
        response = http.send(request)
        if hits(gateway, http) > before:
            return response
    return None


def headers_of(response: httpx.Response) -> list[tuple[str, str]]:
    return sorted(
        item for item in response.headers.multi_items() if item[0] not in ("date", "x-request-id")
    )


LISTS = [
    *("", "page=1&per_page=10", "page=2&per_page=5", "page=9&per_page=5", "per_page=1000"),
    *("per_page=5&count=estimated", "fields=username,id&per_page=3", "id=1&id=3"),
    *("q=User%201&sort=-username", "username=%C3%84da+L", "email=user1%40example.com"),
    "created_since=2020-01-01T00:00:00Z&created_before=2100-01-01T00:00:00%2B02:00",
    *("updated_since=2020-01-01T00:00:00.5Z&sort=updated_at", "cursor={}&per_page=5&count=exact"),
]


def test_page_is_the_one_that_the_service_answers(edged: Gateway, http: httpx.Client) -> None:
    cursor = http.get(URL, params={"per_page": 5}).json()["pagination"]["next_cursor"]
    for query in (each.format(cursor) for each in LISTS):
        url = f"{URL}?{parse_query(ListQuery, query).page_name}" if query else URL
        etag = http.get(url).headers["ETag"]
        known: tuple[dict[str, str], ...]
        known = ({}, {"If-None-Match": etag}, {"If-None-Match": f"W/{etag}"})
        for method, accepted, condition in product(("GET", "HEAD"), ("gzip", "identity"), known):
            asked = {"Accept-Encoding": accepted, **condition}
            ours = of_the_edge(edged, http, http.build_request(method, url, headers=asked))
            assert ours is not None, (url, method, asked)
            theirs = http.request(method, url, headers={**asked, **OF_THE_SERVICE})
            assert ours.headers["X-Cache"] == "HIT"
            assert ours.status_code == theirs.status_code == (304 if condition else 200)
            assert headers_of(ours) == headers_of(theirs), (url, method, asked)
            assert ours.content == theirs.content
            assert "X-Page-Place" not in theirs.headers


def test_hit_is_logged_like_every_request(edged: Gateway, http: httpx.Client) -> None:
    request = http.build_request("GET", f"{URL}?page=1&per_page=50")
    request.headers["X-Request-ID"] = "mine"
    assert of_the_edge(edged, http, request) is not None
    http.get(URL, headers={"X-Request-ID": "other", **OF_THE_SERVICE})
    eventually(lambda: '"other"' in edged.log)
    lines = [json.loads(line) for line in edged.log.splitlines() if line.startswith("{")]
    (other,) = (line for line in lines if line["request_id"] == "other")
    hit = next(line for line in lines if line["request_id"] == "mine" and not line["upstream"])
    assert hit.keys() == other.keys()
    same = ("client", "method", "path", "protocol", "status", "bytes", "logger")
    assert [hit[name] for name in same] == [other[name] for name in same]


IDS = "&".join(f"id={n}" for n in range(1, 101))
HASHED = parse_query(ListQuery, IDS).page_name
FIRST = f"{URL}?page=1&per_page=50"


FOR_THE_SERVICE: list[tuple[str, str, dict[str, str]]] = [
    *(("POST", FIRST, {}), ("OPTIONS", FIRST, {})),
    # In another spelling, or not the name of a page.
    *(("GET", f"{URL}{rest}", {}) for rest in ("?", "/?page=1&per_page=50", f"?{HASHED}")),
    *(("GET", path, {}) for path in ("//api/v1/users", "/api/v1/%75sers")),
    *(("GET", FIRST + rest, {}) for rest in ("&", "%00", ":refill", "&page=1")),
    ("GET", f"{URL}?per_page=50&page=1", {}),
    # With a header that the service must see.
    *(("GET", FIRST, {name: "x"}) for name in ("Authorization", "Origin", "traceparent")),
    *(("GET", FIRST, {name: "x"}) for name in ("Content-Type", "If-Match", "If-Modified-Since")),
    *(("GET", FIRST, {"If-None-Match": tags}) for tags in ('"x"', "*", "x", "")),
    *(("GET", FIRST, body) for body in ({"Content-Length": "2"}, {"Transfer-Encoding": "chunked"})),
    ("GET", FIRST, {"If-Unmodified-Since": "x"}),
]


def test_every_other_request_is_left_to_the_service(edged: Gateway, http: httpx.Client) -> None:
    assert http.get(URL, params=[("id", n) for n in range(1, 101)]).headers["X-Cache"] == "MISS"
    for method, target, headers in FOR_THE_SERVICE:
        assert of_the_edge(edged, http, http.build_request("GET", FIRST)) is not None
        before = hits(edged, http)
        for _ in range(2):
            content = b"{}" if {"Content-Length", "Transfer-Encoding"} & headers.keys() else None
            request = http.build_request(method, URL, headers=headers, content=content)
            request.url = request.url.copy_with(raw_path=target.encode())
            http.send(request)
        assert hits(edged, http) == before, (method, target, headers)


# By name, what becomes of a stored page or of the keys beside it, which begin with ``base``.
CHANGES: dict[str, Callable[[redis_py.Redis, bytes, bytes], object]] = {
    "expired": lambda redis, page, _: redis.setrange(page, 32, b"%010d" % (time.time() - 61)),
    "of another generation": lambda redis, page, _: redis.setrange(page, 0, b"0" * 32),
    "without a generation": lambda redis, _, base: redis.delete(base + b"generation"),
    "without a history": lambda redis, _, base: redis.delete(base + b"history"),
    "of another history": lambda redis, _, base: redis.set(base + b"history", b"0" * 40 + b"/1"),
    "on a promoted replica": lambda redis, *_: promote(redis),
}


def test_page_that_is_not_current_is_left_to_the_service(
    edged: Gateway, http: httpx.Client, redis: redis_py.Redis
) -> None:
    request = http.build_request("GET", FIRST)
    for name, change in CHANGES.items():
        assert of_the_edge(edged, http, request, tries=10**3) is not None, name
        (page,) = redis.scan_iter("*:page=1&per_page=50")
        base = generation_key(redis).removesuffix(b"generation")
        for _ in range(3):  # one of them may be the request that asks for the place
            before = hits(edged, http)
            change(redis, page, base)
            assert http.send(request).status_code == 200
            assert hits(edged, http) == before, name
            http.get(FIRST, headers=OF_THE_SERVICE)
    with read_only(redis):
        redis.client_kill_filter(_type="normal", skipme=True)
        assert of_the_edge(edged, http, request, tries=5) is None
    assert "no master, or another one" in edged.log


@pytest.mark.timeout(600)  # the wait for the project of another module counts too
def test_edge_of_compose_serves_pages_until_the_service_must_see_each_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with (
        started_project("docker-compose.edge.yml") as project,
        httpx.Client(base_url="https://localhost", verify=False, timeout=20) as http,
    ):

        def served() -> float:
            metrics = ("curl", "-fsS", "http://127.0.0.1:9145/metrics")
            exposition = project.execute("gateway", *metrics).stdout
            return scrapes.value(exposition, "page_cache_requests_total", result="hit")

        def pages(number: int) -> list[str]:
            return [http.get(URL).headers["X-Cache"] for _ in range(number)]

        pages(2)
        eventually(lambda: "HIT" in pages(9) and served() > 10)
        assert_is_confined(project, "gateway")
        redis = ("redis", "redis-cli")
        assert project.execute(*redis, "get", "x").stdout.startswith("NOPERM")
        assert project.execute("gateway", "getent", "hosts", "postgres").returncode != 0
        port = free_port()
        monkeypatch.setenv("PROMETHEUS_PORT", str(port))
        project.compose("--profile", "observability", "up", "--wait", "prometheus")
        hit = 'user_service_page_cache_requests_total{job="user-service",instance="gateway:9145"}'
        found = f"http://127.0.0.1:{port}/api/v1/query?query={hit}"
        eventually(lambda: bool(httpx.get(found).json()["data"]["result"]), timeout=60)
        monkeypatch.setenv("RATE_LIMIT", "10000/hour")
        project.up()
        eventually(lambda: pages(2) == ["HIT", "HIT"])
        before = served()
        assert pages(20) == ["HIT"] * 20
        assert served() == before
