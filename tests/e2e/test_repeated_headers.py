"""Header lines that are sent twice, on both servers: each joins them in its own way."""

import httpx
import pytest

URL = "/api/v1/users"
ADA = {"username": "ada", "email": "ada@example.com"}


@pytest.fixture(params=["gunicorn", "granian"])
def server(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_two_idempotency_keys_are_refused(http: httpx.Client) -> None:
    for one, other in [("a", "b"), ('"a"', '"b"'), ("a", "a"), ('"a"', "b")]:
        lines = [("Idempotency-Key", one), ("Idempotency-Key", other)]
        refused = http.post(URL, json=ADA, headers=lines)
        assert refused.status_code == 400
        assert refused.json()["errors"][0]["field"] == "Idempotency-Key"
    assert http.get(URL).json()["users"] == []
