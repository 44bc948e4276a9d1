"""The ``Server-Timing`` header on hits, misses, writes and errors."""

import re
import time

import pytest
from flask.testing import FlaskClient

from tests.integration.test_metrics import users_locked
from tests.integration.users import ADA, URL, USER
from tests.responses import Serve
from user_service.web.services import services_of

# W3C Server Timing, section 3: metrics separated by commas, each a token and its parameters.
METRIC = r"[a-z]+;dur=\d+\.\d{3}"


@pytest.fixture
def client(serving: Serve) -> FlaskClient:
    client = serving(server_timing=True, db_pool_size=1, db_pool_timeout=0.2)
    services_of(client.application).open()
    return client


def timed(client: FlaskClient, method: str, path: str, json: object = None) -> dict[str, float]:
    """Return the milliseconds by stage; fail if the header is malformed or inconsistent."""
    began = time.perf_counter()
    header = client.open(path, method=method, json=json).headers["Server-Timing"]
    waited = 1000 * (time.perf_counter() - began)
    assert re.fullmatch(f"{METRIC}(, {METRIC})*", header)
    parts = [part.split(";dur=") for part in header.split(", ")]
    milliseconds = {name: float(duration) for name, duration in parts}
    assert len(milliseconds) == len(parts)
    assert list(milliseconds)[-1] == "total"
    assert 0 < milliseconds["total"] <= waited
    stages = sum(milliseconds.values()) - milliseconds["total"]
    assert stages <= milliseconds["total"] + 0.001 * len(parts)  # as each is rounded
    return milliseconds


def test_miss_then_hit_and_nothing_by_default(client: FlaskClient, serving: Serve) -> None:
    assert "Server-Timing" not in serving().get("/health/live").headers
    miss = timed(client, "GET", URL)
    assert miss.keys() == {"cache", "pool", "sql", "json", "total"}
    assert miss["sql"] > miss["pool"]
    hit = timed(client, "GET", URL)
    assert hit.keys() == {"cache", "total"}
    assert 0 < hit["cache"] < hit["total"]


def test_write_read_and_errors(client: FlaskClient) -> None:
    write = timed(client, "POST", URL, json=ADA)
    assert write.keys() == {"pool", "sql", "json", "cache", "total"}
    assert timed(client, "GET", USER).keys() == {"pool", "sql", "json", "total"}
    assert timed(client, "GET", f"{URL}/7").keys() == {"pool", "sql", "total"}
    assert timed(client, "DELETE", USER).keys() == {"pool", "sql", "cache", "total"}
    assert timed(client, "GET", "/nowhere").keys() == {"total"}
    assert timed(client, "GET", f"{URL}?page=0").keys() == {"total"}


def test_pool_and_sql_are_separate_stages(client: FlaskClient, database_url: str) -> None:
    database = services_of(client.application).database
    with database.read():  # the only connection
        waiting = timed(client, "GET", USER)
    assert waiting.keys() == {"pool", "total"}
    assert 190 <= waiting["pool"] <= waiting["total"]  # a little of DB_POOL_TIMEOUT is over by then
    with database.read() as cursor:
        cursor.execute("SET statement_timeout = 300")
    with users_locked(database_url):
        slow = timed(client, "GET", USER)
    assert slow["sql"] >= 300
    assert slow["pool"] < slow["sql"]
