"""What clients send by mistake or malice, over real HTTP: refused, and nothing is written."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.e2e.service import RunningService
from tests.faults.harness.clients import URL, Client
from tests.faults.harness.figures import Row
from tests.faults.harness.processes import footprint
from tests.faults.harness.raw import RawAnswer, chunked, exchange, head
from tests.faults.harness.stage import Stage
from tests.integration.test_malformed import CORPUS, Attempt

JSON_TYPE = ("Content-Type", "application/json")
CLOSE = ("Connection", "close")


@pytest.fixture
def service(stage: Stage) -> Iterator[RunningService]:
    with stage.service() as started:
        yield started


@pytest.fixture
def client(service: RunningService) -> Iterator[Client]:
    with Client(service.url) as started:
        yield started


def send(service: RunningService, row: Row, *parts: bytes) -> list[RawAnswer]:
    """Send by hand, and count it in the row's figures."""
    began = time.monotonic()
    found = exchange(service.port, *parts)
    row.longest = max(row.longest, time.monotonic() - began)
    row.sent += 1
    row.acknowledged += bool(found)
    return found


def over_the_wire(attempt: Attempt) -> bytes:
    """Return ``attempt`` as the bytes of a request."""
    data = chunked(attempt.data) if attempt.chunked else attempt.data
    length = attempt.environ.get("CONTENT_LENGTH", str(len(data)))
    headers = [
        CLOSE,
        ("Transfer-Encoding", "chunked") if attempt.chunked else ("Content-Length", length),
    ]
    if attempt.content_type:
        headers.append(("Content-Type", attempt.content_type))
    headers += [
        (name.removeprefix("HTTP_").replace("_", "-"), value)
        for name, value in attempt.environ.items()
        if name.startswith("HTTP_")
    ]
    path = attempt.environ.get("PATH_INFO", attempt.path).replace(" ", "%20")
    return head(attempt.method, path, headers) + data


@pytest.mark.row("JSON, text, ids and pages, malformed")
def test_corpus_of_malformed_requests_makes_no_500_and_writes_nothing(
    stage: Stage, row: Row, service: RunningService, client: Client
) -> None:
    client.create("ada", "ada@example.com")
    before = stage.users()
    # A line break in a header would begin another header.
    corpus = [each for each in CORPUS if not any("\n" in str(v) for v in each.environ.values())]
    with ThreadPoolExecutor(4) as threads:
        answers = threads.map(lambda each: send(service, row, over_the_wire(each)), corpus)
        complaints = [
            f"{attempt} -> {found}"
            for attempt, found in zip(corpus, answers, strict=True)
            if len(found) != 1 or not 400 <= found[0].status < 500 or found[0].problem
        ]
    row.note(f"{len(corpus)} requests")
    assert [each[:300] for each in complaints] == []
    assert stage.users() == before
    assert httpx.get(f"{service.url}/health").json()["pool"]["in_use"] == 0


SMUGGLED = head("DELETE", f"{URL}/1")


@pytest.mark.row("body over the limit")
@pytest.mark.parametrize("how", ["chunked", pytest.param("Content-Length", marks=pytest.mark.slow)])
def test_body_over_the_limit_is_413_and_the_connection_safe(
    stage: Stage, row: Row, service: RunningService, client: Client, how: str
) -> None:
    row.fault += f", {how}"
    client.create("ada", "ada@example.com")
    workers = service.workers
    before = [footprint(pid, stage.ports).memory_mb for pid in workers]
    data = SMUGGLED + b" " * (4_000_000 - len(SMUGGLED))
    if how == "chunked":
        start = head("POST", URL, [JSON_TYPE, ("Transfer-Encoding", "chunked")])
        parts = [start, chunked(data, 60_000)]
    else:
        start = head("POST", URL, [JSON_TYPE, ("Content-Length", str(len(data)))])
        parts = [start, data]
    for _ in range(30):
        found = send(service, row, *parts, head("GET", f"{URL}/1", [CLOSE]))
        statuses = [each.status for each in found]
        # The body is not taken for requests; what follows it is answered, or not at all. A reset
        # may have thrown the answer away before we could read it.
        assert statuses in ([413], [413, 200], [])
    after = [footprint(pid, stage.ports).memory_mb for pid in workers]
    row.note(f"memory {max(before):.0f} -> {max(after):.0f} MB")
    assert row.acknowledged > 0
    assert max(after) < max(before) + 10
    assert stage.users() == {1: "ada@example.com"}
