"""The contract that all compared targets keep: ``python -m benchmarks.contract [TARGET ...]``.

It is the part of the service's contract that the peers share; members may be added and texts may
differ. A target that deviates is not measured.
"""

import json
import re
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from benchmarks.load import USERS
from benchmarks.stand import POPULATE, Stand
from benchmarks.targets import COMPARED, TARGETS, Target
from dev.processes import wait_until

STORED = 25
BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
LOG_SECONDS = 5.0
PROBLEM = "urn:user-service:problem:"
JSON = {"Content-Type": "application/json"}
MEMBERS = ["id", "username", "email", "created_at", "updated_at"]
ADA: dict[str, object] = {"username": "ada", "email": "ada@example.com"}
EVA: dict[str, object] = {"username": "eva", "email": "eva@example.com"}


class ContractBroken(Exception):
    """A target deviates from the contract; the message lists how."""


class Session:
    """A client of one target that records deviations in ``complaints``."""

    def __init__(self, client: httpx.Client, log: Path) -> None:
        self.client = client
        self.log = log
        self.complaints: list[str] = []

    def expect(self, subject: str, found: object, wanted: object) -> None:
        """Record a deviation unless ``found`` is as ``wanted``."""
        if found != wanted:
            self.complaints.append(f"{subject} is {found!r}, not {wanted!r}")

    def ask(self, status: int, method: str, path: str, **request: Any) -> httpx.Response:  # noqa: ANN401 -- httpx knows them
        """Send a request; every answer has the given status and a request id."""
        response = self.client.request(method, path, **request)
        subject = f"{method} {path} {request.get('json', request.get('content', ''))}"
        self.expect(f"{subject}: status", response.status_code, status)
        self.expect(f"{subject}: has a request id", "X-Request-ID" in response.headers, wanted=True)
        return response

    def refused(
        self, status: int, kind: str, fields: set[str], method: str, path: str, **request: object
    ) -> None:
        """Send a request that is answered by a problem of this kind about these fields."""
        response = self.ask(status, method, path, **request)
        subject = f"{method} {path} {request}"
        media_type = response.headers.get("Content-Type", "").partition(";")[0]
        self.expect(f"{subject}: content type", media_type, "application/problem+json")
        problem = response.json()
        wanted = {"type": PROBLEM + kind, "status": status}
        wanted["request_id"] = response.headers.get("X-Request-ID", "")
        self.expect(f"{subject}: problem", {name: problem.get(name) for name in wanted}, wanted)
        found = {error["field"] for error in problem.get("errors", [])}
        self.expect(f"{subject}: fields", found, fields)

    def page(self, query: str) -> tuple[list[dict[str, Any]], dict[str, Any], str]:
        """Return the users of a page, its pagination and its X-Cache."""
        response = self.ask(200, "GET", f"{USERS}?{query}")
        document = response.json()
        return document["users"], document["pagination"], response.headers.get("X-Cache", "")


def reads(session: Session) -> None:
    """Return the stored users, and 404 for any other id."""
    for number in (1, STORED):
        user = session.ask(200, "GET", f"{USERS}/{number}").json()
        session.expect(f"user {number}", _comparable(user), _stored_user(number))
    for number in (0, 999_999, 2**63 - 1):
        session.refused(404, "user-not-found", set(), "GET", f"{USERS}/{number}")
    for path in (f"{USERS}/{'9' * 20}", f"{USERS}/ada", "/api/v1/nothing"):
        session.ask(404, "GET", path)


def creates(session: Session) -> None:
    """Store a user with trimmed names and the present time."""
    sent = {"username": "  Grace Ünal ", "email": " Grace@Example.com "}
    response = session.ask(201, "POST", USERS, json=sent)
    user = response.json()
    session.expect("members of a user", list(user)[: len(MEMBERS)], MEMBERS)
    session.expect("Location", response.headers.get("Location"), f"{USERS}/{user['id']}")
    session.expect("username", user["username"], "Grace Ünal")
    session.expect("email", user["email"], "Grace@Example.com")
    age = datetime.now(UTC) - datetime.fromisoformat(user["created_at"])
    session.expect("created_at is now", abs(age) < timedelta(seconds=5), wanted=True)


def refuses(session: Session) -> None:
    """Refuse a bad write with the names of all fields at fault, and store nothing."""
    total = session.page("per_page=7")[1]["total"]
    for username in ("user1", "USER1", "ｕｓｅｒ１"):
        body = {**EVA, "username": username}
        session.refused(409, "user-exists", {"username"}, "POST", USERS, json=body)
    body = {**EVA, "email": "USER1@example.com"}
    session.refused(409, "user-exists", {"email"}, "POST", USERS, json=body)
    for invalid in ("ab", "  ab  ", "a" * 51, 12345, None, ["eva"], "nul\0nul"):
        body = {**EVA, "username": invalid}
        session.refused(400, "invalid-input", {"username"}, "POST", USERS, json=body)
    for email in ("eva", "@example.com", "a b@example.com"):
        body = {**EVA, "email": email}
        session.refused(400, "invalid-input", {"email"}, "POST", USERS, json=body)
    session.refused(400, "invalid-input", {"username", "email"}, "POST", USERS, json={})
    session.refused(400, "invalid-input", {"role"}, "POST", USERS, json={**EVA, "role": "root"})
    for content in ("{", "[]", "{'username': 1}"):
        session.refused(400, "malformed-body", set(), "POST", USERS, content=content, headers=JSON)
    session.expect("users after refusals", session.page("per_page=7")[1]["total"], total)


def replaces(session: Session) -> None:
    """Change a user and its ``updated_at`` by the rules of POST."""
    path = f"{USERS}/2"
    user = session.ask(200, "PUT", path, json={**ADA, "username": " Ada "}).json()
    session.expect("new name", user["username"], "Ada")
    created = datetime.fromisoformat(user["created_at"])
    updated = datetime.fromisoformat(user["updated_at"])
    session.expect("created_at stays", created, _stored_user(2)["created_at"])
    session.expect("updated_at is later", updated > created, wanted=True)
    session.expect("user after PUT", session.ask(200, "GET", path).json(), user)
    taken = {**ADA, "username": "User1"}
    session.refused(409, "user-exists", {"username"}, "PUT", path, json=taken)
    session.refused(404, "user-not-found", set(), "PUT", f"{USERS}/999999", json=EVA)


def lists(session: Session) -> None:
    """Return pages in order of id, with an exact total."""
    users, pagination, _ = session.page("page=2&per_page=5")
    session.expect("ids of page 2", [user["id"] for user in users], [6, 7, 8, 9, 10])
    session.expect("user on a page", _comparable(users[0]), _stored_user(6))
    total = pagination["total"]
    wanted = {"page": 2, "per_page": 5, "total": total, "pages": -(-total // 5)}
    session.expect("pagination", {name: pagination.get(name) for name in wanted}, wanted)
    for query, size, length in (("", 50, total), ("per_page=999", 100, total), ("page=9", 50, 0)):
        users, pagination, _ = session.page(query)
        found = (pagination["per_page"], pagination["total"], len(users))
        session.expect(f"size, total and users of {query!r}", found, (size, total, length))
    for query, field in (("page=0", "page"), ("page=x", "page"), ("per_page=-1", "per_page")):
        session.refused(400, "invalid-input", {field}, "GET", f"{USERS}?{query}")


def caches(session: Session) -> None:
    """Answer the second request for a page from the cache, and never with a page before a write."""

    def page() -> tuple[int, dict[int, str]]:
        users, pagination, _ = session.page("per_page=100")
        return pagination["total"], {user["id"]: user["username"] for user in users}

    total, names = page()
    session.expect("cache, second request", session.page("per_page=100")[2], "HIT")
    number = session.ask(201, "POST", USERS, json=EVA).json()["id"]
    session.expect("page after POST", page(), (total + 1, {**names, number: "eva"}))
    session.ask(200, "PUT", f"{USERS}/{number}", json={**EVA, "username": "evi"})
    session.expect("page after PUT", page(), (total + 1, {**names, number: "evi"}))
    session.expect("body of DELETE", session.ask(204, "DELETE", f"{USERS}/{number}").content, b"")
    session.expect("page after DELETE", page(), (total, names))
    session.refused(404, "user-not-found", set(), "DELETE", f"{USERS}/{number}")


def observes(session: Session) -> None:
    """Give each request an id and one log line; count and time it in the metrics."""
    headers = {"X-Request-ID": "contract-1"}
    missing = session.ask(404, "GET", f"{USERS}/999999", headers=headers)
    session.expect("request id of the client", missing.headers.get("X-Request-ID"), "contract-1")
    for number in range(200):  # fills any buffer of the log
        session.ask(200, "GET", f"{USERS}/{number % 3 + 3}")
    wait_until(lambda: _log_lines(session.log, "contract-1") != [], LOG_SECONDS)
    lines = _log_lines(session.log, "contract-1")
    logged = [(line.get("method"), line.get("status")) for line in lines]
    session.expect("log lines of a request", logged, [("GET", 404)])
    metrics = session.ask(200, "GET", "/metrics").text
    for pattern in (r'^\w+\{[^#\n]*method="POST"[^\n]*"201"', r'^\w+_bucket\{[^\n]*method="GET"'):
        found = re.search(pattern, metrics, re.MULTILINE) is not None
        session.expect(f"metric {pattern}", found, wanted=True)


PARTS = (reads, creates, refuses, replaces, lists, caches, observes)


def deviations(stand: Stand, target: Target) -> list[str]:
    """Return the deviations of ``target`` from the contract: none, if it may be measured.

    Raises TargetFailed, with the end of its log, if it does not start.
    """
    stand.reset(STORED)
    stand.query(POPULATE, STORED, url=stand.database(STORED))
    log = stand.folder / f"{target.name}.log"
    with (
        stand.serve(target, STORED, log) as server,
        httpx.Client(base_url=server.url, timeout=10) as client,
    ):
        session = Session(client, log)
        for part in PARTS:
            try:
                part(session)
            except (httpx.HTTPError, LookupError, TypeError, ValueError) as error:
                session.complaints.append(f"{part.__name__} stopped: {error!r}")
        return session.complaints


def require(stand: Stand, target: Target) -> None:
    """Raise ContractBroken unless ``target`` keeps the contract."""
    if complaints := deviations(stand, target):
        raise ContractBroken("\n  ".join([f"{target.label} breaks the contract:", *complaints]))


def _stored_user(number: int) -> dict[str, object]:
    created_at = BEGINNING + timedelta(seconds=number)
    user = {"id": number, "username": f"User{number}", "email": f"user{number}@example.com"}
    return {**user, "created_at": created_at, "updated_at": created_at}


def _comparable(user: dict[str, Any]) -> dict[str, object]:
    """Return the members of a user with times parsed: their text may have a "Z" or three digits."""
    times = {name: datetime.fromisoformat(user[name]) for name in ("created_at", "updated_at")}
    return {name: user[name] for name in MEMBERS} | times


def _log_lines(log: Path, request_id: str) -> list[dict[str, Any]]:
    lines = log.read_text("utf-8").splitlines()
    parsed = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
    return [line for line in parsed if line.get("request_id") == request_id]


def main(names: list[str]) -> int:
    """Check the named targets, or all; return 1 if one breaks the contract."""
    broken = False
    with tempfile.TemporaryDirectory() as folder, Stand(Path(folder)) as stand:
        for target in [TARGETS[name] for name in names] or COMPARED:
            target.install()
            complaints = deviations(stand, target)
            print("\n  ".join([f"{target.name}: {len(complaints)} deviations", *complaints]))
            broken |= bool(complaints)
    return int(broken)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
