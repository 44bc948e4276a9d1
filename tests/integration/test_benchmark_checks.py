"""Targets whose answers differ are not compared in speed."""

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from unittest.mock import sentinel

import pytest

from benchmarks.checks import AnswersDiffer, reading, same_users
from benchmarks.measure import Server

TIME = "2026-01-01T00:00:00.123456+00:00"


def user(number: int, name: str = "User", time: str = TIME) -> dict[str, object]:
    email = f"user{number}@example.com"
    times = {"created_at": time, "updated_at": time}
    return {"id": number, "username": f"{name}{number}", "email": email, **times}


@contextmanager
def serving(users: list[dict[str, object]], *, paged: bool = True) -> Iterator[Server]:
    """Serve these users, in pages or as one array."""
    pagination = {"page": 1, "per_page": 50, "total": len(users), "pages": 1}
    listed = {"users": users, "pagination": pagination} if paged else users

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            last = self.path.rpartition("/")[2]
            self.send_response(200)
            self.end_headers()
            self.wfile.write(
                json.dumps(users[int(last) - 1] if last.isdigit() else listed).encode()
            )

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        try:
            url = f"http://127.0.0.1:{listening.server_port}"
            none = sentinel.not_used
            yield Server("target", url, none, "", "", none, len(users))
        finally:
            listening.shutdown()
            thread.join()


def test_same_users_may_be_listed_in_pages_or_as_an_array() -> None:
    users = [user(1), user(2)]
    with ExitStack() as stack:
        same_users([stack.enter_context(serving(users, paged=each)) for each in (True, False)])


@pytest.mark.parametrize("others", [[user(1), user(2, "Other")], [user(2), user(1)]])
def test_other_users_or_another_order_is_a_difference(others: list[dict[str, object]]) -> None:
    with ExitStack() as stack:
        servers = [stack.enter_context(serving(each)) for each in ([user(1), user(2)], others)]
        with pytest.raises(AnswersDiffer):
            same_users(servers)


@pytest.mark.parametrize("time", ["2026-01-01T00:00:00.123Z", "2026-01-01T01:00:00.123+01:00"])
def test_same_moment_is_the_same_however_it_is_written(time: str) -> None:
    with ExitStack() as stack:
        pages = [
            reading(stack.enter_context(serving([user(1, time=each)])).url, "/api/v1/users")
            for each in (TIME, time)
        ]
    assert pages[0] == pages[1]


def test_other_moment_or_total_is_a_difference() -> None:
    later = TIME.replace(".123", ".124")
    with ExitStack() as stack:
        said = [
            reading(stack.enter_context(serving(users)).url, "/api/v1/users")
            for users in ([user(1)], [user(1, time=later)], [user(1), user(2)])
        ]
    assert said[0] != said[1]
    assert said[0] != said[2]
