"""The users that the tests create, and the pages of the list that they read."""

from typing import Any

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.responses import json_of

URL = "/api/v1/users"
USER = f"{URL}/1"
ADA = {"username": "ada", "email": "ada@example.com"}
GRACE = {"username": "grace", "email": "grace@example.com"}


def create(client: FlaskClient, *names: str, **emails: str) -> TestResponse:
    """Create a user by each name, some with the address beside it; return the last response."""
    for name, email in ({name: f"{name}@example.com" for name in names} | emails).items():
        answer = client.post(URL, json={"username": name, "email": email})
        assert answer.status_code == 201, answer.data
    return answer


def page(client: FlaskClient, **query: object) -> Any:
    """Return a page of the list, or fail."""
    answer = client.get(URL, query_string=query)
    assert answer.status_code == 200, answer.data
    return json_of(answer)


def names(client: FlaskClient, **query: object) -> list[str]:
    """Return the usernames on a page of the list."""
    return [user["username"] for user in page(client, **query)["users"]]


def first_page(client: FlaskClient) -> tuple[list[str], str]:
    """Return the usernames on the first page, and what the cache did."""
    answer = client.get(URL)
    return [user["username"] for user in json_of(answer)["users"]], answer.headers["X-Cache"]


def total(client: FlaskClient, **query: object) -> Any:
    """Return the number of users that the list says."""
    return page(client, **query)["pagination"]["total"]


def x_cache(client: FlaskClient, **query: object) -> str:
    """Return what the cache did for a page of the list."""
    return client.get(URL, query_string=query).headers["X-Cache"]
