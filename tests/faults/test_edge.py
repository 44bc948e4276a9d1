"""The edge, which reads pages from Redis itself: no page is older than a write, for any request."""

import re
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial

import httpx
import pytest

from app import create_services
from tests.e2e.edge import PATIENT, edge, hits
from tests.e2e.gateway import Gateway, tls
from tests.e2e.service import RunningService
from tests.e2e.test_invalid_http import CORPUS as INVALID
from tests.e2e.test_invalid_http import FOLLOWING
from tests.faults.harness.clients import URL, Client
from tests.faults.harness.credentials import skip_edge
from tests.faults.harness.figures import Row
from tests.faults.harness.stage import Stage
from tests.faults.test_input import over_the_wire
from tests.faults.test_redis import store_late
from tests.integration.test_malformed import CORPUS as MALFORMED
from tests.waiting import eventually
from user_service.settings import Settings
from user_service.web.reads import produce_page
from user_service.web.requests.schemas import ListQuery
from user_service.web.requests.validation import parse_query

pytestmark = pytest.mark.timeout(1800)
WITH_PAGES = {"GATEWAY_PAGES": "true"}


@pytest.fixture
def service(stage: Stage) -> Iterator[RunningService]:
    skip_edge()
    with stage.service(WITH_PAGES) as started:
        yield started


@pytest.fixture
def edged(stage: Stage, service: RunningService) -> Iterator[Gateway]:
    with edge(stage.folder / "edge", service.port, stage.redis.port) as started:
        yield started


@pytest.fixture
def reader(edged: Gateway) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=edged.url, verify=False, timeout=20) as http:
        yield http


def values(page: httpx.Response) -> set[str]:
    assert page.status_code == 200, page.text
    return {user["email"] for user in page.json()["users"]}


@pytest.mark.parametrize("writes", [200, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.row("edge: write through one replica, read through the edge before the other,")
def test_read_through_the_edge_shows_the_write_through_another_replica(
    stage: Stage, row: Row, edged: Gateway, reader: httpx.Client, writes: int
) -> None:
    row.fault += f" {writes:,} times"
    with stage.service(WITH_PAGES) as other, Client(other.url) as writer:
        made = writer.create("ada", "ada@example.com")
        assert made.user_id is not None
        for number in range(writes):
            row.count([writer.update(made.user_id, f"{number}@example.com")])
            for _ in range(2):  # the second one is in Redis
                shown = values(reader.get(URL))
                row.stale += shown != {f"{number}@example.com"}
    row.note(f"{hits(edged)} of {2 * writes:,} pages by the edge")
    assert row.stale == 0
    assert hits(edged) > writes / 2


@pytest.mark.parametrize("reads", [1_000, pytest.param(100_000, marks=pytest.mark.slow)])
@pytest.mark.row("edge: late store:")
def test_edge_serves_no_page_that_was_read_before_a_write(  # noqa: PLR0913, PLR0917 -- fixtures
    stage: Stage,
    row: Row,
    service: RunningService,
    edged: Gateway,
    reader: httpx.Client,
    reads: int,
) -> None:
    """Readers read the old page and pause, a writer commits, then they store their pages."""
    row.fault += f" {reads:,} reads"
    queries = [parse_query(ListQuery, f"page=1&per_page={size}") for size in range(1, 21)]
    urls = {"database_url": stage.postgres.url, "redis_url": stage.redis.url, "redis_timeout": 2}
    with (
        closing(create_services(Settings.model_validate(urls))) as services,
        Client(service.url) as writer,
    ):
        services.open()
        made = writer.create("ada", "ada@example.com")
        late = {query.page_name: partial(produce_page, services, query) for query in queries}

        def write(value: str) -> None:
            assert made.user_id is not None
            row.count([writer.update(made.user_id, value)])

        for number in range(reads // len(queries)):
            services.pages.invalidate()
            value = f"{number}@example.com"
            store_late(services.pages, late, partial(write, value))
            # What is stored by then is served by the edge, and right as well.
            for query in (*queries, queries[-1]):
                row.stale += values(reader.get(f"{URL}?{query.page_name}")) != {value}
    row.note(f"{hits(edged)} pages by the edge")
    assert row.stale == 0
    assert hits(edged) > 0


def conversation(gateway: Gateway, request: bytes) -> str:
    """Return the statuses that come for ``request`` and a valid one after it."""
    received = b""
    while not received:  # a busy machine misses the time-out of a handshake now and then
        with suppress(ConnectionError, ssl.SSLError), tls(gateway) as client:
            client.sendall(request + FOLLOWING)
            while part := client.recv(65536):
                received += part
    # Of the valid requests that create a user, any may be the first.
    return (
        b" ".join(re.findall(rb"HTTP/1\.[0-2] (\d{3}) ", received)).decode().replace("409", "201")
    )


@pytest.mark.slow
@pytest.mark.row("malformed requests, and such that smuggle one, to the edge")
def test_malformed_requests_are_answered_as_by_the_plain_gateway(
    stage: Stage, row: Row, service: RunningService, edged: Gateway, reader: httpx.Client
) -> None:
    page = f"{URL}?page=1&per_page=50".encode()
    corpus = [request.replace(b"/health/live", page) for request, *_ in INVALID]
    corpus += [
        over_the_wire(each)
        for each in MALFORMED
        if not any("\n" in str(value) for value in each.environ.values())
    ]
    without_pages = {**PATIENT, "access_by_lua_block": "# access_by_lua_block"}
    folder, answers = stage.folder / "plain", []
    with edge(folder, service.port, stage.redis.port, without_pages) as plain:
        for gateway in (edged, plain):
            stage.sql("TRUNCATE users RESTART IDENTITY")
            reader.post(URL, json={"username": "ada", "email": "ada@example.com"})
            eventually(lambda: reader.get(page.decode()).headers["X-Cache"] == "HIT")
            began = time.monotonic()
            with ThreadPoolExecutor(12) as threads:
                sent = [threads.submit(conversation, gateway, request) for request in corpus]
                answers.append([each.result() for each in sent])
            row.longest = time.monotonic() - began
        assert hits(plain) == 0
    assert hits(edged) > 0
    row.sent = row.acknowledged = len(corpus)
    # nginx accepts some fields that gunicorn refuses. Nobody reads them if the page is in Redis.
    fields = (b"\r\nX: \x1b", b"\r\nX: \x7f", b"\r\nX: 1" * 200)
    different = [
        (request, *both)
        for request, *both in zip(corpus, *answers, strict=True)
        if both[0] != both[1] and not (both[0] == "200 200" and any(f in request for f in fields))
    ]
    assert [(request[:200], *both) for request, *both in different] == []
    assert "500" not in " ".join(answers[0]).split()
