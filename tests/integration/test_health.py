"""The health routes, with the database there and away."""

from datetime import UTC, datetime, timedelta

import pytest
from flask.testing import FlaskClient

from tests.integration.users import USER
from tests.responses import Serve, json_of, problem_of
from user_service import __version__
from user_service.web.services import services_of


@pytest.fixture
def without_database(serving: Serve) -> FlaskClient:
    url = "postgresql://users@127.0.0.1:1/users"
    return serving(database_url=url, retry_attempts=0, migrate_on_start=False)


def test_all_well(client: FlaskClient) -> None:
    answer = client.get("/health")
    health = json_of(answer)
    assert answer.status_code == 200
    age = datetime.now(UTC) - datetime.fromisoformat(health.pop("timestamp"))
    assert abs(age) < timedelta(minutes=1)
    assert health == {
        "status": "healthy",
        "database": "connected",
        "redis": "connected",
        "pool": {"size": 10, "in_use": 0, "waiting": 0},
        "breakers": {"database": "closed", "redis": "closed"},
        "version": __version__,
        "commit": "unknown",
    }
    assert client.get("/health/live").status_code == 200
    assert client.get("/health/ready").status_code == 200


def test_without_the_database(without_database: FlaskClient) -> None:
    health = without_database.get("/health")
    assert health.status_code == 503
    states = {name: json_of(health)[name] for name in ("status", "database", "redis")}
    assert states == {"status": "unhealthy", "database": "disconnected", "redis": "connected"}
    assert without_database.get("/health/live").status_code == 200
    assert without_database.get("/health/ready").status_code == 503


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_user_routes_without_the_database(without_database: FlaskClient, method: str) -> None:
    pool = services_of(without_database.application).database.pool
    for _ in range(2 * pool.size):  # before and after the breaker opens
        refused = without_database.open(USER, method=method)
        problem_of(refused, 503)
        assert refused.headers["Retry-After"] == "1"
        for internal in (b"127.0.0.1", b"refused", b"psycopg", b"postgres"):
            assert internal not in refused.data
    assert (pool.lent, pool.waiting) == (0, 0)
