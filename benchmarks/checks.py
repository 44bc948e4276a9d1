"""That all targets give the same answers: asked before the load, and once more after it."""

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import httpx

from benchmarks.measure import Server
from benchmarks.workloads import USERS

NUMBERS = ("page", "per_page", "total", "pages")
NAMES = ("id", "username", "email")
MEMBERS = ("id", "username", "email", "created_at", "updated_at")


class AnswersDiffer(Exception):
    """A target answers otherwise than the service: its figures would be of something else."""


def compare(servers: Sequence[Server]) -> None:
    """Raise AnswersDiffer unless all say the same of the same users, and writing works on each."""
    users = servers[0].users
    paths = [
        f"{USERS}?page=1&per_page=10",
        f"{USERS}?page=1&per_page=100",
        f"{USERS}?page={users // 10}&per_page=10",
        f"{USERS}/1",
        f"{USERS}/{users}",
        f"{USERS}/{2**40}",
        f"{USERS}?page=0",
    ]
    for path in paths:
        said = [reading(server.url, path) for server in servers]
        for server, saying in zip(servers, said, strict=True):
            if saying != said[0]:
                raise AnswersDiffer(f"{path}: {server.name} {saying}, {servers[0].name} {said[0]}")
    for server in servers:
        write(server)


def same_users(servers: Sequence[Server]) -> None:
    """Raise AnswersDiffer unless all say the same of some users, in a list and alone.

    For targets whose contract is not the service's: their list is all users, or in ``users``.
    """
    users = servers[0].users
    ids = (1, users // 2, users)
    said = []
    for server in servers:
        listed = httpx.get(server.url + USERS, timeout=60).json()
        listed = listed if isinstance(listed, list) else listed["users"]
        alone = [httpx.get(f"{server.url}{USERS}/{each}", timeout=60).json() for each in ids]
        said.append([{name: each[name] for name in NAMES} for each in (*listed[:50], *alone)])
    for server, saying in zip(servers, said, strict=True):
        if saying != said[0]:
            raise AnswersDiffer(f"{server.name} and {servers[0].name} do not list the same users")


def write(server: Server) -> None:
    """Raise AnswersDiffer unless writes take effect, pages show it, and bad ones are refused."""
    page = f"{USERS}?page=1&per_page=10"
    first, second = f"a{uuid.uuid4().hex}", f"b{uuid.uuid4().hex}"
    with httpx.Client(base_url=server.url, timeout=60) as client:
        total = client.get(page).json()["pagination"]["total"]
        created = client.post(USERS, json=_body(first))
        _expect(server, created, 201)
        path = f"{USERS}/{created.json()['id']}"
        _expect(server, client.post(USERS, json=_body(first.upper())), 409)
        _expect(server, client.post(USERS, json={"username": "x"}), 400)
        if client.get(page).json()["pagination"]["total"] != total + 1:
            raise AnswersDiffer(f"{server.name} serves a page from before its last write")
        _expect(server, client.put(path, json=_body(second)), 200)
        if client.get(path).json()["username"] != second:
            raise AnswersDiffer(f"{server.name} has not stored an update")
        _expect(server, client.delete(path), 204)


def reading(url: str, path: str) -> tuple[int, object]:
    """Return the status and what the answer says, whatever else its members are."""
    answer = httpx.get(url + path, timeout=60)
    if answer.is_error:
        return answer.status_code, answer.headers["Content-Type"].partition(";")[0]
    said = answer.json()
    if "users" not in said:
        return answer.status_code, user(said)
    numbers = {name: said["pagination"][name] for name in NUMBERS}
    return answer.status_code, (numbers, [user(each) for each in said["users"]])


def user(said: dict[str, Any]) -> dict[str, object]:
    """Return what is said of a user; times to the millisecond, which is all that JavaScript has."""
    return {name: _moment(said[name]) if name.endswith("_at") else said[name] for name in MEMBERS}


def _moment(text: str) -> str:
    return datetime.fromisoformat(text).astimezone(UTC).isoformat(timespec="milliseconds")


def _body(name: str) -> dict[str, str]:
    return {"username": name, "email": f"{name}@example.com"}


def _expect(server: Server, answer: httpx.Response, status: int) -> None:
    if answer.status_code != status:
        asked = f"{answer.request.method} {answer.request.url.path}"
        raise AnswersDiffer(f"{server.name}: {asked} is {answer.status_code}, not {status}")
