"""The ``Server-Timing`` header on hits, misses, writes and errors."""

import re
import time
from collections.abc import Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app import create_app
from tests.integration.test_metrics import users_locked
from user_service.settings import Settings
from user_service.web.services import services_of

URL = "/api/v1/users"
ADA = {"username": "ada", "email": "ada@example.com"}
# W3C Server Timing, section 3: metrics separated by commas, each a token and its parameters.
METRIC = r"[a-z]+;dur=\d+\.\d{3}"


@pytest.fixture
def app(settings: Settings) -> Iterator[Flask]:
    app = create_app(
        settings.model_copy(
            update={"server_timing": True, "db_pool_size": 1, "db_pool_timeout": 0.2}
        )
    )
    services_of(app).open()
    yield app
    services_of(app).close()


def timing_of(answer: TestResponse) -> dict[str, float]:
    """Return the milliseconds by stage; fail if the header is malformed or inconsistent."""
    header = answer.headers["Server-Timing"]
    assert re.fullmatch(f"{METRIC}(, {METRIC})*", header)
    parts = [part.split(";dur=") for part in header.split(", ")]
    milliseconds = {name: float(duration) for name, duration in parts}
    assert len(milliseconds) == len(parts)
    assert list(milliseconds)[-1] == "total"
    stages = sum(milliseconds.values()) - milliseconds["total"]
    assert stages <= milliseconds["total"] + 0.001 * len(parts)  # as each is rounded
    return milliseconds


def timed(client: FlaskClient, method: str, path: str, **arguments: object) -> dict[str, float]:
    """Send a request and return its timing, which is at most the time until the response."""
    began = time.perf_counter()
    answer = client.open(path, method=method, **arguments)  # type: ignore[arg-type]
    waited = 1000 * (time.perf_counter() - began)
    timing = timing_of(answer)
    assert 0 < timing["total"] <= waited
    return timing


def test_miss_then_hit(client: FlaskClient) -> None:
    miss = timed(client, "GET", URL)
    assert miss.keys() == {"cache", "pool", "sql", "json", "total"}
    assert miss["sql"] > miss["pool"]
    hit = timed(client, "GET", URL)
    assert hit.keys() == {"cache", "total"}
    assert 0 < hit["cache"] < hit["total"]


def test_write_read_and_errors(client: FlaskClient) -> None:
    write = timed(client, "POST", URL, json=ADA)
    assert write.keys() == {"pool", "sql", "json", "cache", "total"}
    assert timed(client, "GET", f"{URL}/1").keys() == {"pool", "sql", "json", "total"}
    assert timed(client, "GET", f"{URL}/7").keys() == {"pool", "sql", "total"}
    assert timed(client, "DELETE", f"{URL}/1").keys() == {"pool", "sql", "cache", "total"}
    assert timed(client, "GET", "/nowhere").keys() == {"total"}
    assert timed(client, "GET", f"{URL}?page=0").keys() == {"total"}


def test_pool_and_sql_are_separate_stages(
    app: Flask, client: FlaskClient, database_url: str
) -> None:
    with services_of(app).database.read():  # the only connection
        waiting = timed(client, "GET", f"{URL}/1")
    assert waiting.keys() == {"pool", "total"}
    assert 200 <= waiting["pool"] <= waiting["total"]
    with users_locked(database_url), services_of(app).database.read() as cursor:
        cursor.execute("SET statement_timeout = 300")
    with users_locked(database_url):
        slow = timed(client, "GET", f"{URL}/1")
    assert slow["sql"] >= 300
    assert slow["pool"] < slow["sql"]


def test_is_off_by_default(settings: Settings) -> None:
    app = create_app(settings)
    assert "Server-Timing" not in app.test_client().get("/health/live").headers
    services_of(app).close()
