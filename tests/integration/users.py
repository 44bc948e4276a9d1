"""The users that the tests create."""

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

URL = "/api/v1/users"
USER = f"{URL}/1"
ADA = {"username": "ada", "email": "ada@example.com"}
GRACE = {"username": "grace", "email": "grace@example.com"}


def create(client: FlaskClient, *names: str) -> TestResponse:
    """Create a user by each of the names and return the last response, or fail."""
    for name in names:
        answer = client.post(URL, json={"username": name, "email": f"{name}@example.com"})
        assert answer.status_code == 201, answer.data
    return answer
