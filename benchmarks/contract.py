"""The contract of all that is compared, as parts of one scripted session.

It is what our service and the peers have in common: members may be added, texts may differ. What
came ``before`` keeps less of it.
"""

import json
import re
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.session import USERS, ContractSession, Session

SEEDED = 25
SEEDED_AT = datetime(2026, 11, 22, 19, 41, 6, 120_000, UTC)
LOG_SECONDS = 5.0
ADA = {"username": "ada", "email": "ada@example.com"}
MEMBERS = ("id", "username", "email", "created_at", "updated_at")


def seeded_user(number: int) -> dict[str, object]:
    """Return a user as ``seed`` stored it."""
    email = f"seeded{number}@example.com"
    user = {"id": number, "username": f"Seeded{number}", "email": email}
    return {**user, "created_at": SEEDED_AT, "updated_at": SEEDED_AT}


def creates(session: ContractSession) -> None:
    """POST stores a user, trimmed and otherwise as it was sent."""
    began = datetime.now(UTC) - timedelta(seconds=1)
    response = session.ask(201, "POST", USERS, json=ADA)
    user = response.json()
    session.expect("created user", {**user, **ADA}, user)
    session.expect("Location", response.headers.get("Location"), f"{USERS}/{user['id']}")
    session.expect("members of a user", tuple(user), MEMBERS)
    for name in ("created_at", "updated_at"):
        moment = datetime.fromisoformat(user[name])
        session.expect(f"{name} has the UTC offset", moment.utcoffset(), timedelta(0))
        session.expect(f"{name} is now", began < moment, wanted=True)
    sent = {"username": "  Grace Ünal ", "email": " Grace@Example.com "}
    trimmed = session.ask(201, "POST", USERS, json=sent).json()
    session.expect("trimmed username", trimmed["username"], "Grace Ünal")
    session.expect("trimmed email", trimmed["email"], "Grace@Example.com")


def refuses_who_is_there(session: ContractSession) -> None:
    """Names are unique without regard to case or Unicode form."""
    for username in ("ada", "ADA", "ａｄａ"):
        other = {"username": username, "email": "somebody@example.com"}
        session.refused(409, "user-exists", {"username"}, "POST", USERS, json=other)
    for email in ("ada@example.com", "ADA@EXAMPLE.COM"):
        other = {"username": "somebody", "email": email}
        session.refused(409, "user-exists", {"email"}, "POST", USERS, json=other)


def refuses_invalid_input(session: ContractSession) -> None:
    """Every field at fault is named, and nothing is stored."""
    total = session.page("?page=1&per_page=7")[1]["total"]
    for username in ("ab", "  ab  ", "a" * 51, "", 12345, None, ["ada"], "nul\0nul"):
        body = {"username": username, "email": "somebody@example.com"}
        session.refused(400, "invalid-input", {"username"}, "POST", USERS, json=body)
    for email in ("somebody", "somebody@", "@example.com", "a b@example.com", 5, None):
        body = {"username": "somebody", "email": email}
        session.refused(400, "invalid-input", {"email"}, "POST", USERS, json=body)
    both = {"username", "email"}
    session.refused(400, "invalid-input", both, "POST", USERS, json={})
    session.refused(400, "invalid-input", {"role"}, "POST", USERS, json={**ADA, "role": "root"})
    headers = {"Content-Type": "application/json"}
    for content in ("{", "[]", '"text"', "{'username': 1}"):
        sent = {"content": content, "headers": headers}
        session.refused(400, "malformed-body", set(), "POST", USERS, **sent)
    session.ask(400, "POST", USERS, content="", headers=headers)
    session.expect("users after refusals", session.page("?per_page=7")[1]["total"], total)


def reads(session: ContractSession) -> None:
    """GET returns what was stored before the target was started."""
    for number in (1, SEEDED):
        session.expect(f"user {number}", _user(session, number), seeded_user(number))
    for nobody in ("0", "999999", "9223372036854775807"):
        session.refused(404, "user-not-found", set(), "GET", f"{USERS}/{nobody}")
    for path in (f"{USERS}/{'9' * 20}", f"{USERS}/ada", "/api/v1/nothing"):
        session.ask(404, "GET", path)


def replaces(session: ContractSession) -> None:
    """PUT changes a user and when it was changed, by the rules of POST."""
    path = f"{USERS}/2"
    body = {"username": " Renamed ", "email": "renamed@example.com"}
    user = session.ask(200, "PUT", path, json=body).json()
    changed_at = datetime.fromisoformat(user["updated_at"])
    session.expect("replaced name", user["username"], "Renamed")
    session.expect("created_at stays", datetime.fromisoformat(user["created_at"]), SEEDED_AT)
    session.expect("updated_at moves on", changed_at > SEEDED_AT, wanted=True)
    session.expect("read again", session.ask(200, "GET", path).json(), user)
    session.ask(200, "PUT", path, json=body)
    taken = {"username": "Seeded1", "email": "renamed@example.com"}
    session.refused(409, "user-exists", {"username"}, "PUT", path, json=taken)
    session.refused(400, "invalid-input", {"email"}, "PUT", path, json={"username": "renamed"})
    session.refused(404, "user-not-found", set(), "PUT", f"{USERS}/999999", json=ADA)


def lists(session: ContractSession) -> None:
    """Pages are in order of id; the total is exact, beyond the last page too."""
    users, about, _ = session.page("?page=2&per_page=5")
    session.expect("ids of page 2", [user["id"] for user in users], [6, 7, 8, 9, 10])
    session.expect("user on a page", _comparable(users[0]), seeded_user(6))
    total = about["total"]
    wanted = {"page": 2, "per_page": 5, "total": total, "pages": -(-total // 5)}
    session.expect("about page 2", {name: about.get(name) for name in wanted}, wanted)
    for query, per_page, length in (
        ("", 50, total),
        ("?per_page=1000", 100, total),
        ("?page=99", 50, 0),
    ):
        users, about, _ = session.page(query)
        session.expect(f"length of {query!r}", len(users), length)
        session.expect(f"per_page of {query!r}", about["per_page"], per_page)
        session.expect(f"total of {query!r}", about["total"], total)
    for query, field in (("page=0", "page"), ("page=x", "page"), ("per_page=-1", "per_page")):
        session.refused(400, "invalid-input", {field}, "GET", f"{USERS}?{query}")


def caches(session: ContractSession) -> None:
    """Pages come from the cache the second time, and never from before a write."""
    query = "?page=1&per_page=100"

    def total_and_name(number: int) -> tuple[int, str | None]:
        users, about, _ = session.page(query)
        names = {user["id"]: user["username"] for user in users}
        return about["total"], names.get(number)

    session.page(query)
    session.expect("cache, asked again", session.page(query)[2], "HIT")
    before = total_and_name(0)[0]
    sent = {"username": "fresh", "email": "fresh@example.com"}
    number = session.ask(201, "POST", USERS, json=sent).json()["id"]
    session.expect("page after POST", total_and_name(number), (before + 1, "fresh"))
    session.ask(200, "PUT", f"{USERS}/{number}", json={**sent, "username": "fresher"})
    session.expect("page after PUT", total_and_name(number), (before + 1, "fresher"))
    session.expect("body of DELETE", session.ask(204, "DELETE", f"{USERS}/{number}").content, b"")
    session.expect("page after DELETE", total_and_name(number), (before, None))
    session.refused(404, "user-not-found", set(), "DELETE", f"{USERS}/{number}")


def numbers_requests(session: ContractSession) -> None:
    """X-Request-ID is the client's if it is of our form, or a new one."""

    def id_of(offered: str) -> str:
        headers = {"X-Request-ID": offered}
        found: str = session.ask(200, "GET", f"{USERS}/1", headers=headers).headers["X-Request-ID"]
        return found

    session.expect("offered request id", id_of("conformance-1"), "conformance-1")
    new = {id_of("not of our form"), id_of("x" * 65), id_of("")}
    session.expect("new request ids", len(new - {"not of our form", "x" * 65, ""}), 3)


def logs(session: ContractSession) -> None:
    """There is one line of JSON for each request, with its id, method, status and time."""
    session.ask(404, "GET", f"{USERS}/999999", headers={"X-Request-ID": "conformance-log"})
    for number in range(200):  # enough to fill any buffer that the log is gathered in
        session.ask(200, "GET", f"{USERS}/{number % 3 + 3}")
    end = time.monotonic() + LOG_SECONDS
    while not (lines := _lines_about("conformance-log", session.log)) and time.monotonic() < end:
        time.sleep(0.1)
    session.expect("number of lines in the log", len(lines), 1)
    found = {name: (lines or [{}])[0].get(name) for name in ("method", "status")}
    session.expect("line in the log", found, {"method": "GET", "status": 404})
    times = [value for name, value in (lines or [{}])[0].items() if "duration" in name]
    session.expect("time in the log is a number", [type(each) for each in times], [float])


def counts(session: ContractSession) -> None:
    """``/metrics`` counts requests by method, route and status, and has a histogram of times."""
    text = session.ask(200, "GET", "/metrics").text
    samples = [line for line in text.splitlines() if not line.startswith("#")]
    counted = [
        line
        for line in samples
        if 'method="POST"' in line and '"201"' in line and re.search(r"users.* [1-9]", line)
    ]
    session.expect("POST, 201 is counted", bool(counted), wanted=True)
    buckets = [line for line in samples if "_bucket{" in line and 'method="GET"' in line]
    session.expect("times are in a histogram", bool(buckets), wanted=True)


def keeps_alive(session: Session) -> None:
    """Have one connection serve all requests."""
    address = urlsplit(session.url)
    with closing(HTTPConnection(address.hostname or "", address.port)) as connection:
        for path in (f"{USERS}?per_page=10", f"{USERS}/1", f"{USERS}/999999", "/health/live"):
            connection.request("GET", path)
            connection.getresponse().read()
            session.expect(f"{path} keeps the connection", connection.sock is None, wanted=False)


def answers_as_before(session: Session) -> None:
    """Check what there was before: everybody in one array, and no contract for errors."""

    def everybody() -> list[int]:
        return [user["id"] for user in session.ask(200, "GET", USERS).json()]

    session.expect("everybody", everybody(), list(range(1, SEEDED + 1)))
    number = session.ask(201, "POST", USERS, json=ADA).json()["id"]
    session.expect("user", session.ask(200, "GET", f"{USERS}/{number}").json()["username"], "ada")
    session.ask(500, "POST", USERS, json=ADA)
    session.ask(500, "POST", USERS, json={})
    session.ask(200, "PUT", f"{USERS}/{number}", json={**ADA, "username": "adele"})
    changed = session.ask(200, "GET", f"{USERS}/{number}").json()
    session.expect("user after PUT", changed["username"], "adele")
    session.expect("everybody from the cache", everybody(), list(range(1, SEEDED + 1)))
    session.ask(204, "DELETE", f"{USERS}/{number}")
    session.ask(404, "DELETE", f"{USERS}/{number}")
    session.ask(404, "GET", f"{USERS}/{number}")


CONTRACT: tuple[Callable[[ContractSession], None], ...] = (
    *(reads, creates, refuses_who_is_there, refuses_invalid_input, replaces, lists, caches),
    *(numbers_requests, logs, counts, keeps_alive),
)


def _user(session: Session, number: int) -> dict[str, object]:
    return _comparable(session.ask(200, "GET", f"{USERS}/{number}").json())


def _comparable(user: Mapping[str, Any]) -> dict[str, object]:
    """Return a user with its times as times: 06.12 and 06.120000 are the same."""
    times = ("created_at", "updated_at")
    return {**user, **{name: datetime.fromisoformat(user[name]) for name in times}}


def _lines_about(request_id: str, log: Path) -> list[dict[str, Any]]:
    lines = log.read_text("utf-8").splitlines()
    found = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
    return [line for line in found if line.get("request_id") == request_id]
