"""The tasks of a client with httpx. Usage: users.py [URL]."""

import sys
import time
import uuid
from collections.abc import Iterator
from typing import Any

import httpx

USERS = "/api/v1/users"
User = dict[str, Any]
PRECONDITION_FAILED = 412


def create(client: httpx.Client, user: User) -> httpx.Response:
    """Create a user once, however often the request is sent."""
    headers = {"Idempotency-Key": f'"{uuid.uuid4()}"'}
    for seconds in (1, 2, 4, 8):
        try:
            response = client.post(USERS, json=user, headers=headers)
        except httpx.TransportError:
            # The user may exist: the key makes it safe to send the request again.
            pause = seconds
        else:
            if "Retry-After" not in response.headers:
                return response.raise_for_status()
            pause = int(response.headers["Retry-After"])
        time.sleep(pause)
    raise TimeoutError("the service does not answer")


def walk(client: httpx.Client) -> Iterator[User]:
    """Yield all users, page by page."""
    query = {"per_page": "100"}
    while True:
        page = client.get(USERS, params=query).raise_for_status().json()
        yield from page["users"]
        if page["pagination"]["next_cursor"] is None:
            return
        query["cursor"] = page["pagination"]["next_cursor"]


def change(client: httpx.Client, path: str, members: User) -> User:
    """Change the user as it was read; if another client changes it meanwhile, begin again."""
    while True:
        etag = client.get(path).raise_for_status().headers["ETag"]
        response = client.patch(path, json=members, headers={"If-Match": etag})
        if response.status_code != PRECONDITION_FAILED:
            changed: User = response.raise_for_status().json()
            return changed


if __name__ == "__main__":
    with httpx.Client(base_url=(*sys.argv[1:], "http://localhost:5000")[0]) as client:
        ada = create(client, {"username": "ada", "email": "ada@example.com"})
        print("created", ada.json()["id"])
        print("walked", len(list(walk(client))))
        changed = change(client, ada.headers["Location"], {"email": "countess@example.com"})
        print("changed", changed["id"])
