"""Rate limits on a real Redis: headers, refusals, and Redis going away and coming back."""

import re
import time
from collections import Counter

import redis as redis_py
from flask.testing import FlaskClient
from pytest_mock import MockerFixture

from dev.servers import RedisServer
from tests import scrapes
from tests.integration.users import ADA, URL, USER
from tests.redis_states import out_of_memory
from tests.responses import Serve, problem_of
from user_service.cache.redis_client import redis_client
from user_service.resilience.breaker import CircuitBreaker, State
from user_service.web.policies.rate_limiter import Limit, RateLimiter
from user_service.web.services import services_of

PEER = "203.0.113.9"


def statuses(client: FlaskClient, number: int, path: str = "/nowhere") -> "Counter[int]":
    """Ask ``number`` times and count the statuses."""
    environ = {"REMOTE_ADDR": PEER}
    return Counter(client.get(path, environ_base=environ).status_code for _ in range(number))


class TestHeaders:
    def test_are_on_every_response_that_counts(self, serving: Serve) -> None:
        client = serving(rate_limit="100/minute")
        etag = client.get(URL).headers["ETag"]
        answers = [
            (client.get(URL, headers={"If-None-Match": etag}), 304),
            (client.head(URL), 200),
            (client.options(URL), 200),
            (client.post(URL, json=ADA), 201),
            (client.post(URL, data="{"), 415),
            (client.get(f"{URL}?page=0"), 400),
            (client.get("/nowhere"), 404),
            (client.put(URL), 405),
        ]
        for n, (answer, status) in enumerate(answers, start=2):
            assert answer.status_code == status
            assert answer.headers["RateLimit-Policy"] == '"default";q=100;w=60'
            assert re.fullmatch(rf'"default";r={100 - n};t=(60|5\d)', answer.headers["RateLimit"])

    def test_preflight_of_a_browser_does_not_count(self, serving: Serve) -> None:
        """Browsers give a write up if the request before it, which they add, is refused."""
        client = serving(rate_limit="2/minute", cors_origins="https://a.example")
        origin = {"Origin": "https://a.example"}
        preflight = origin | {"Access-Control-Request-Method": "POST"}
        for _ in range(5):
            answer = client.options(URL, headers=preflight)
            assert answer.status_code == 200
            assert "POST" in answer.headers["Access-Control-Allow-Methods"]
            assert "RateLimit" not in answer.headers
        assert client.post(URL, json=ADA, headers=origin).status_code == 201
        assert client.options(URL, headers=origin).status_code == 200  # is no preflight
        refused = client.options(URL, headers={"Access-Control-Request-Method": "POST"})
        assert refused.status_code == 429  # neither, without an origin
        assert client.options(URL, headers=preflight).status_code == 200


class TestRefusal:
    def test_is_a_problem_with_a_time_to_wait(self, serving: Serve, redis: redis_py.Redis) -> None:
        client = serving(rate_limit="2/minute")
        assert statuses(client, 1) == {404: 1}
        redis.script_flush()  # which must change nothing
        assert statuses(client, 1) == {404: 1}
        refused = client.get(URL, environ_base={"REMOTE_ADDR": PEER})
        problem = problem_of(refused, 429)
        assert problem["type"] == "urn:user-service:problem:rate-limited"
        assert problem["violated-policies"] == ["default"]
        (key,) = redis.scan_iter("users:limit:*")
        assert 60 < redis.ttl(key) <= 120  # nothing stays for longer than two windows
        wait = int(refused.headers["Retry-After"])
        assert 1 <= wait <= 61
        assert refused.headers["RateLimit"] == f'"default";r=0;t={wait}'

    def test_comes_before_body_and_database(self, serving: Serve, mocker: MockerFixture) -> None:
        client = serving(rate_limit="1/minute")
        assert client.get("/nowhere").status_code == 404
        database = services_of(client.application).database
        for name in ("read", "write", "transaction"):
            mocker.patch.object(database, name, side_effect=AssertionError("SQL"))
        body = mocker.Mock(read=mocker.Mock(side_effect=AssertionError("read")))
        for method, path in (("POST", URL), ("PATCH", f"{URL}/x"), ("GET", f"{URL}?page=x")):
            answer = client.open(
                path,
                method=method,
                content_type="application/json",
                environ_overrides={"wsgi.input": body, "CONTENT_LENGTH": "10"},
            )
            problem_of(answer, 429)
        assert services_of(client.application).pages.health().works

    def test_never_hits_probes_metrics_and_documentation(self, serving: Serve) -> None:
        client = serving(rate_limit="4/hour")
        exempt = "/health /health/live /health/ready /metrics /docs /docs/x.css /openapi.json"
        for path in exempt.split():
            answer = client.get(path)
            assert answer.status_code in (200, 404)
            assert "RateLimit" not in answer.headers
        for path in ("/healthy", "/docsx", "/openapi.json.bak", "/x/health"):
            assert statuses(client, 1, path) == {404: 1}
        assert statuses(client, 1, "/healthy") == {429: 1}


class TestWrites:
    def test_have_a_window_of_their_own(self, serving: Serve) -> None:
        client = serving(rate_limit="4/minute", rate_limit_writes="2/minute")
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            client.open(USER, method=method)
        problem = problem_of(client.post(URL, json=ADA), 429)
        assert problem["violated-policies"] == ["writes"]
        for method in ("GET", "HEAD", "OPTIONS", "GET"):
            assert client.open(URL, method=method).status_code == 200
        assert problem_of(client.get(URL), 429)["violated-policies"] == ["default"]
        scraped = client.get("/metrics").text
        refused = {"default": 1, "writes": 3}
        for limit, times in refused.items():
            assert scrapes.value(scraped, "rate_limited_requests_total", limit=limit) == times

    def test_may_be_limited_alone(self, serving: Serve) -> None:
        client = serving(rate_limit_writes="1/minute")
        assert [client.post(URL, json=ADA).status_code for _ in range(2)] == [201, 429]
        answer = client.get(URL)
        assert (answer.status_code, "RateLimit" in answer.headers) == (200, False)


def test_address_or_subject_by_a_trusted_proxy_tells_clients_apart(serving: Serve) -> None:
    client = serving(
        rate_limit="2/minute", trusted_proxies="10.0.0.0/8", rate_limit_subject_header="X-Subject"
    )

    def ask(peer: str, subject: str) -> int:
        headers = {"X-Forwarded-For": f"198.51.100.{len(subject)}", "X-Subject": subject}
        environ = {"REMOTE_ADDR": peer}
        return client.get("/nowhere", headers=headers, environ_base=environ).status_code

    assert [ask("10.0.0.1", "ada") for _ in range(3)] == [404, 404, 429]
    assert ask("10.0.0.1", "grace") == 404
    assert [ask(PEER, subject) for subject in ("ada", "grace", "edsger")] == [404, 404, 429]


class TestWithoutRedis:
    def test_each_process_limits_by_itself(self, serving: Serve, own_redis: RedisServer) -> None:
        a, b = (serving(rate_limit="10/hour", redis_url=own_redis.url) for _ in range(2))
        assert statuses(a, 4) == {404: 4}
        own_redis.stop()
        for each in (a, b):
            assert statuses(each, 12) == {404: 10, 429: 2}
        own_redis.start()  # it is a cache: what it had counted is gone with it
        time.sleep(1.1)  # the breaker's pause
        assert statuses(a, 5) == {404: 5}
        assert statuses(b, 7) == {404: 5, 429: 2}

    def test_breaker_opens_for_a_frozen_redis(self, serving: Serve, own_redis: RedisServer) -> None:
        client = serving(rate_limit="500/hour", redis_url=own_redis.url, redis_timeout=0.2)
        pages = services_of(client.application).pages
        own_redis.freeze()
        try:
            assert statuses(client, 3) == {404: 3}
            assert pages.store.breaker.state is State.OPEN
        finally:
            own_redis.thaw()

    def test_limits_hold_while_redis_is_full(self, serving: Serve, redis: redis_py.Redis) -> None:
        client = serving(rate_limit="5/hour")
        with out_of_memory(redis):
            assert statuses(client, 8) == {404: 5, 429: 3}
        assert statuses(client, 8) == {404: 5, 429: 3}

    def test_limits_hold_with_a_damaged_count(self, serving: Serve, redis: redis_py.Redis) -> None:
        client = serving(rate_limit="5/hour")
        statuses(client, 1)
        (key,) = redis.scan_iter("users:limit:*")
        redis.set(key + b"/-1", "x")  # of the window before
        assert statuses(client, 8) == {404: 5, 429: 3}

    def test_windows_in_the_memory_of_a_process_are_bounded(self, mocker: MockerFixture) -> None:
        mocker.patch("user_service.web.policies.rate_limiter.MAX_LOCAL_WINDOWS", 10)
        redis = redis_client("redis://127.0.0.1:1", timeout=1)
        breaker = CircuitBreaker("Redis", failures=(redis_py.ConnectionError,))
        limiter = RateLimiter(redis, breaker)
        limit = Limit("default", 5, 3600)
        for n in range(40):
            assert limiter.hit(limit, f"203.0.113.{n}").remaining == 4
            assert limiter.local_windows <= 11

    def test_database_and_redis_away_is_no_500(self, serving: Serve) -> None:
        client = serving(
            rate_limit="3/minute",
            redis_url="redis://127.0.0.1:1",
            database_url="postgresql://users@127.0.0.1:1/users",
            retry_attempts=0,
        )
        assert statuses(client, 5, USER) == {503: 3, 429: 2}
