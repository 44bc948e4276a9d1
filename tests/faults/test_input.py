"""What clients send by mistake or malice, over real HTTP: refused, and nothing is written."""

import re
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.e2e.service import RunningService
from tests.faults.harness.clients import URL, Answer, Client
from tests.faults.harness.figures import Row
from tests.faults.harness.processes import footprint
from tests.faults.harness.raw import RawAnswer, chunked, exchange, head
from tests.faults.harness.stage import Stage
from tests.integration.test_malformed import CORPUS, EMAILS, SAME, USERNAMES, Attempt

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


@pytest.mark.row("text: unusual, and by the stated rules fine")
def test_unusual_text_is_read_back_as_sent_and_unique_by_canonical_form(
    row: Row, client: Client
) -> None:
    fields = [("username", text) for text in USERNAMES] + [("email", text) for text in EMAILS]
    for number, (name, text) in enumerate(fields):
        user = {"username": f"user{number}", "email": f"user{number}@example.com"} | {name: text}
        created = client.ask("POST", URL, user)
        assert created.status == 201, (text, created.body)
        row.count([created])
        assert client.ask("GET", created.headers["Location"]).body[name] == text
    for number, (name, first, second) in enumerate(SAME):
        others = {"username": f"same{number}", "email": f"same{number}@example.com"}
        assert client.ask("POST", URL, others | {name: first}).status in (201, 409)
        refused = client.ask("POST", URL, {**others, "username": "x" * 9, name: second})
        row.count([refused])
        assert refused.status == 409


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


@pytest.mark.row("request id with CR LF, ANSI codes, 8 kB")
def test_odd_request_id_is_replaced_and_the_log_has_one_line_a_request(
    row: Row, service: RunningService
) -> None:
    odd = ["a\x1b[31mred", "a" * 8000, "a\x00b", "a b", "é", "%0d%0aforged", "", "a\rb", "a;b"]
    folded = b"GET /health/live HTTP/1.1\r\nHost: x\r\nX-Request-ID: a\r\n forged\r\n\r\n"
    sent = [head("GET", "/health/live", [("X-Request-ID", each), CLOSE]) for each in odd]
    before = service.log.count("GET /health/live")
    served = 0
    for request in [*sent, folded]:
        (answer,) = send(service, row, request)
        assert answer.status in (200, 400, 431)
        served += answer.status == 200
        assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["x-request-id"])
    log = service.log
    assert log.count("GET /health/live") == before + served
    assert "\x1b" not in log
    assert "forged" not in log
    assert all(re.match(r"\d{4}-\d\d-\d\d ", line) for line in log.splitlines())


@pytest.mark.row("forged X-Forwarded-For")
def test_forged_forwarded_for_does_not_lift_the_limit(stage: Stage, row: Row) -> None:
    with stage.service({"RATE_LIMIT": "20/minute"}) as service:
        statuses = []
        for number in range(60):
            forged = [("X-Forwarded-For", f"10.0.0.{number}"), CLOSE]
            (answer,) = send(service, row, head("GET", URL, forged))
            statuses.append(answer.status)
    assert statuses.count(429) >= 30


@pytest.mark.row("same idempotency key")
def test_same_key_makes_one_row_at_once_and_afterwards(
    stage: Stage, row: Row, service: RunningService
) -> None:
    def create(client: Client, key: int, **other: str) -> tuple[int | None, str]:
        user = {"username": f"user{key}", "email": f"user{key}@example.com"} | other
        answer = client.ask("POST", URL, user, {"Idempotency-Key": f"k-{key}"})
        assert not answer.complaint
        operations.append(answer)
        replay = answer.headers.get("Idempotent-Replay", "")
        return answer.status, replay or answer.body.get("type", "").rpartition(":")[2]

    def create_all(number: int) -> list[tuple[int | None, str]]:
        with Client(service.url, number=number) as client:
            return [create(client, key) for key in range(10)]

    operations: list[Answer] = []
    with ThreadPoolExecutor(20) as threads:
        each_client = list(threads.map(create_all, range(20)))
    for key in range(10):
        of_key = Counter(answers[key] for answers in each_client)
        assert of_key[201, ""] == 1
        in_flight = of_key[409, "idempotency-key-in-flight"]
        assert of_key.total() == 1 + of_key[201, "true"] + in_flight
    with Client(service.url) as client:
        assert create(client, 1) == (201, "true")
        assert create(client, 1, username="grace") == (422, "idempotency-key-reused")
    row.count(operations)
    assert len(stage.users()) == 10
