"""Traces, by OpenTelemetry: this module is imported only where an ``OTEL_*`` variable asks for it.

A request has a server span, continued from the client's ``traceparent`` (W3C Trace Context), and
below it a span for each statement of SQL and each command of Redis; where several requests ask for
something together, it is below the one that asked. The response says which span it was in
``traceresponse``. OpenTelemetry reads what else ``OTEL_*`` variables say by itself.
"""

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation import psycopg2 as psycopg2_instrumentation
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.instrumentation.propagators import (
    TraceResponsePropagator,
    set_global_response_propagator,
)
from opentelemetry.instrumentation.psycopg2 import Psycopg2Instrumentor
from opentelemetry.instrumentation.redis import RedisInstrumentor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    ConsoleSpanExporter,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.trace import SpanKind, Status

SERVICE_NAME = "user-service"
# Seconds at the end of a process for what has not been exported yet.
FLUSH_SECONDS = 2.0
# Probes and scrapes would be most of what is traced.
_NOT_TRACED = r"^https?://[^/]+/(health|metrics)\b"
# Attributes that hold a query string, in which clients look for names and addresses; in both of
# OpenTelemetry's spellings.
_WITH_QUERY = ("http.target", "http.url", "url.full", "url.path")
_SETTINGS = re.compile(r"(\s*SET LOCAL [^;]*;)+")


def start(app: Any, exporter: str) -> Callable[[], None]:
    """Trace what ``app`` does from now on, and return what ends that. ``exporter``: otlp, console.

    Call it after the fork, before anything connects. Spans are exported by a thread, which no
    request waits for: while the collector is away they are dropped.
    """
    export = ConsoleSpanExporter() if exporter == "console" else OTLPSpanExporter()
    provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(WithoutPersonalData(export)))
    set_global_response_propagator(TraceResponsePropagator())
    FlaskInstrumentor().instrument_app(
        app, tracer_provider=provider, excluded_urls=_NOT_TRACED, enable_commenter=False
    )
    _name_statements_by_what_they_do()
    Psycopg2Instrumentor().instrument(tracer_provider=provider, skip_dep_check=True)
    RedisInstrumentor().instrument(tracer_provider=provider, skip_dep_check=True)
    return lambda: _flush(provider)


def current_ids() -> tuple[str, str] | None:
    """Return trace id and span id of what is being done, as they are written."""
    span = trace.get_current_span().get_span_context()
    if not span.is_valid:
        return None
    return trace.format_trace_id(span.trace_id), trace.format_span_id(span.span_id)


class WithoutPersonalData(SpanExporter):
    """Exports spans without what people typed: query strings, unknown paths, texts of errors.

    An error of PostgreSQL repeats the address that exists already. The statements themselves hold
    placeholders, and commands of Redis come with their arguments left out.
    """

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export; called by the processor's thread."""
        return self._exporter.export([_without_personal_data(span) for span in spans])

    def shutdown(self) -> None:
        """Break off what is under way."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Wait for what is under way."""
        return self._exporter.force_flush(timeout_millis)


def _without_personal_data(span: ReadableSpan) -> ReadableSpan:
    return ReadableSpan(
        name=_name(span),
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=_safe(span.attributes or {}),
        links=span.links,
        kind=span.kind,
        status=Status(span.status.status_code),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def _name(span: ReadableSpan) -> str:
    """Return the name; for a request of no route the method alone, since any path may come."""
    attributes = span.attributes or {}
    if span.kind is not SpanKind.SERVER or "http.route" in attributes:
        return span.name
    return str(attributes.get("http.method") or attributes.get("http.request.method") or "HTTP")


def _safe(attributes: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in attributes.items() if name != "url.query"}
    for name in _WITH_QUERY:
        if name in kept:
            kept[name] = str(kept[name]).partition("?")[0]
            if "http.route" not in kept:  # a path that we do not have may be anything
                del kept[name]
    return kept


def _name_statements_by_what_they_do() -> None:
    """Call a span SELECT although settings are sent along before; leave out bound values.

    execute_values sends bytes, in which the values are; all others have placeholders.
    """
    tracer: Any = psycopg2_instrumentation.CursorTracer
    name_of, text_of = tracer.get_operation_name, tracer.get_statement

    def name(self: object, cursor: object, arguments: Sequence[Any]) -> str:
        if arguments and isinstance(arguments[0], str):
            arguments = (_SETTINGS.sub("", arguments[0], count=1),)
        return str(name_of(self, cursor, arguments))

    def text(self: object, cursor: object, arguments: Sequence[Any]) -> str:
        is_bound = bool(arguments) and isinstance(arguments[0], bytes)
        return "" if is_bound else str(text_of(self, cursor, arguments))

    tracer.get_operation_name, tracer.get_statement = name, text


def _resource() -> Resource:
    """Return who we are: what the variables say, and our own name if they say none."""
    said = Resource.create()
    if not str(said.attributes["service.name"]).startswith("unknown_service"):
        return said
    return said.merge(Resource({"service.name": SERVICE_NAME}))


def _flush(provider: TracerProvider) -> None:
    # In a thread: the library may wait for a collector that hangs for longer than a stop may take.
    last = threading.Thread(target=provider.shutdown, name="trace-flush", daemon=True)
    last.start()
    last.join(FLUSH_SECONDS)
