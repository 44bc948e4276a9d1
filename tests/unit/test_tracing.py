"""What is exported of a span: statements without settings and values, and no personal data."""

from contextlib import suppress

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from user_service.observability.tracing import WithoutPersonalData


def exported(
    name: str,
    attributes: dict[str, str],
    *,
    kind: SpanKind = SpanKind.CLIENT,
    error: Exception | None = None,
) -> ReadableSpan:
    """Return what is exported of a span, which ``error`` ends."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(WithoutPersonalData(exporter)))
    tracer = provider.get_tracer("test")
    with suppress(ValueError), tracer.start_as_current_span(name, attributes=attributes, kind=kind):
        if error is not None:
            raise error
    (span,) = exporter.get_finished_spans()
    return span


@pytest.mark.parametrize(
    ("system", "text"), [("db.system", "db.statement"), ("db.system.name", "db.query.text")]
)
@pytest.mark.parametrize(
    ("sent", "name", "shown"),
    [
        ("SELECT id FROM users", "SELECT", "SELECT id FROM users"),
        (
            "BEGIN; SET LOCAL a = '3000'; SET LOCAL jit = off; INSERT INTO users VALUES (%s)",
            "INSERT",
            "INSERT INTO users VALUES (%s)",
        ),
        ("BEGIN ISOLATION LEVEL READ COMMITTED;\n  UPDATE users", "UPDATE", "UPDATE users"),
        ("BEGIN;", "BEGIN", "BEGIN;"),
        ("", "users", ""),
        (
            "INSERT INTO users VALUES ('ada', E'o''\\\\x', 'a' || 'b; c'), ('cut of",
            "INSERT",
            "INSERT INTO users VALUES (?, E?, ? || ?), (?",
        ),
    ],
)
def test_sql_is_shown_without_settings_and_values(
    system: str, text: str, sent: str, name: str, shown: str
) -> None:
    span = exported("users", {system: "postgresql", text: sent})
    assert (span.name, span.attributes) == (name, {system: "postgresql", text: shown})


def test_span_of_redis_keeps_its_name() -> None:
    attributes = {"db.system": "redis", "db.statement": "SET ? ?\nGET ?"}
    span = exported("SET GET", attributes)
    assert (span.name, span.attributes) == ("SET GET", attributes)


@pytest.mark.parametrize("spelling", ["http.target", "http.url", "url.full", "url.path"])
def test_query_string_and_path_without_a_route_are_left_out(spelling: str) -> None:
    request = {spelling: "/users?email=ada@example.com", "url.query": "email=ada@example.com"}
    known = exported("GET /users", request | {"http.route": "/users"}, kind=SpanKind.SERVER)
    assert (known.name, known.attributes) == (
        "GET /users",
        {spelling: "/users", "http.route": "/users"},
    )
    method = {"http.method": "GET"}
    unknown = exported("GET /ada@example.com", request | method, kind=SpanKind.SERVER)
    assert (unknown.name, unknown.attributes) == ("GET", method)


def test_client_and_free_parts_of_a_path_are_left_out() -> None:
    client = {"net.peer.ip": "192.0.2.7", "client.address": "192.0.2.7", "http.user_agent": "ada"}
    client |= {"network.peer.port": "1", "user_agent.original": "ada", "net.peer.port": "1"}
    route = {"http.route": "/docs/assets/<version>/<name>"}
    request = {**client, **route, "http.target": "/docs/assets/1/ada@example.com"}
    assert exported("GET", request, kind=SpanKind.SERVER).attributes == route
    server = {"net.peer.name": "db", "db.system": "redis"}
    assert exported("GET", server).attributes == server


def test_text_of_an_error_is_left_out() -> None:
    error = ValueError("Key (email)=(ada@example.com) already exists")
    span = exported("INSERT", {}, error=error)
    assert not span.status.is_ok
    assert "ada@" not in span.to_json()  # hexadecimal ids contain "ada" at times
