"""A client that asks, and notes each answer that is not as the contract has it."""

from pathlib import Path
from typing import Any, Self

import httpx

USERS = "/api/v1/users"
PROBLEM_MEMBERS = {"type", "title", "status", "detail", "request_id"}


class Session:
    """A client of one target, its notes, and the file with the target's output."""

    def __init__(self, url: str, log: Path) -> None:
        self.url = url
        self.log = log
        self.client = httpx.Client(base_url=url, timeout=10)
        self.answers = 0
        self.complaints: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def ask(self, status: int, method: str, path: str, **request: Any) -> httpx.Response:
        """Ask, and note what is not so of every answer."""
        response = self.client.request(method, path, **request)
        self.answers += 1
        what = f"{method} {path} {request.get('json', request.get('content', ''))}"
        self.expect(f"{what}: status", response.status_code, status)
        return response

    def expect(self, what: str, found: object, wanted: object) -> None:
        """Note ``what`` if it is not as it should be."""
        if found != wanted:
            self.complaints.append(f"{what} is {found!r}, not {wanted!r}")


class ContractSession(Session):
    """A session with a target that keeps the whole contract."""

    def ask(self, status: int, method: str, path: str, **request: Any) -> httpx.Response:
        """Ask, and note what is not so of every answer."""
        response = super().ask(status, method, path, **request)
        what = f"{method} {path}"
        request_id = response.headers.get("X-Request-ID", "")
        self.expect(f"{what}: has a request id", bool(request_id), wanted=True)
        if path.startswith(USERS) and status not in (200, 201, 204):
            self.expect_problem(what, response, request_id)
        return response

    def expect_problem(self, what: str, response: httpx.Response, request_id: str) -> None:
        """Note what is missing for a problem."""
        kind = response.headers.get("Content-Type", "").partition(";")[0]
        self.expect(f"{what}: content type", kind, "application/problem+json")
        problem = response.json() if response.content else {}
        self.expect(f"{what}: missing members", PROBLEM_MEMBERS - problem.keys(), set())
        self.expect(f"{what}: member status", problem.get("status"), response.status_code)
        self.expect(f"{what}: member request_id", problem.get("request_id"), request_id)

    def refused(
        self, status: int, kind: str, fields: set[str], method: str, path: str, **request: object
    ) -> None:
        """Ask for what is to be refused, because of just these fields."""
        problem = self.ask(status, method, path, **request).json()
        what = f"{method} {path} {request}"
        found = {error["field"] for error in problem.get("errors", [])}
        self.expect(f"{what}: fields at fault", found, fields)
        self.expect(f"{what}: type", problem.get("type"), f"urn:user-service:problem:{kind}")

    def page(self, query: str) -> tuple[list[dict[str, Any]], dict[str, Any], str]:
        """Return a page's users, what it says of itself, and what the cache did."""
        response = self.ask(200, "GET", USERS + query)
        document = response.json()
        return document["users"], document["pagination"], response.headers.get("X-Cache", "")
