"""The request id: the client's if it can stand in a log line, or else a fresh one."""

import re
import threading
from collections.abc import Iterator

import pytest

from user_service.observability import request_id

FRESH = re.compile(r"[0-9a-f]{32}")


@pytest.fixture(autouse=True)
def outside_of_a_request() -> Iterator[None]:
    yield
    request_id.clear()


@pytest.mark.parametrize(
    "offered", ["a", "0", "-", "_", "a" * 64, "0af7651916cd43dd8448eb211c80319c", "Trace_1-2"]
)
def test_plain_one_is_kept(offered: str) -> None:
    assert request_id.begin(offered) == offered
    assert request_id.current() == offered


@pytest.mark.parametrize(
    "offered",
    [
        pytest.param(None, id="none"),
        pytest.param("", id="empty"),
        pytest.param("abc\r\nlevel=ERROR forged", id="CR LF"),
        pytest.param("\x1b[31mred\x1b[0m", id="ANSI"),
        pytest.param("a" * 65, id="65 characters"),
        pytest.param("١٢٣", id="Arabic digits"),
        pytest.param("a b", id="space"),
        pytest.param("a\x00b", id="NUL"),
    ],
)
def test_any_other_is_replaced_by_a_fresh_one(offered: str | None) -> None:
    made = request_id.begin(offered)
    assert FRESH.fullmatch(made)
    assert request_id.current() == made


def test_outside_of_a_request_it_is_a_dash() -> None:
    assert request_id.current() == "-"
    request_id.begin("abc")
    request_id.clear()
    assert request_id.current() == "-"


def test_another_thread_has_its_own() -> None:
    request_id.begin("abc")
    seen: list[str] = []
    thread = threading.Thread(target=lambda: seen.append(request_id.current()))
    thread.start()
    thread.join()
    assert seen == ["-"]
