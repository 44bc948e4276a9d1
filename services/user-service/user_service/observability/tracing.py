"""Tracing by OpenTelemetry; this module is imported only if the settings ask for traces.

A request has a server span, which continues the client's ``traceparent`` (W3C Trace Context).
Below it are a span for each SQL statement and each Redis command. The response names the server
span in ``traceresponse``. OpenTelemetry itself reads the other ``OTEL_*`` variables.
"""

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
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
# Seconds at the end of a process for the spans that are not exported yet.
FLUSH_SECONDS = 2.0
# Probes and scrapes would be most of the traces.
_NOT_TRACED = r"^https?://[^/]+/(health|metrics)\b"
# OpenTelemetry has two spellings of each attribute, an old one and a stable one.
_URLS = ("http.target", "http.url", "url.full", "url.path")
_CLIENT = re.compile(r"(net\.peer|network\.peer|client)\..+|(http\.user_agent|user_agent\.).*")
_TEXT_PART = re.compile(r"<\w+>")  # of a route
_STATEMENTS = ("db.statement", "db.query.text")
_SETTINGS = re.compile(r"\s*(?:(?:BEGIN|SET LOCAL)\b[^;]*;\s*)+(?=\S)")
# A literal without an end is one that OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT cut off.
_STRING = re.compile(r"'(?:[^']|'')*(?:'|$)")


def start(
    app: object, exporter: str, protocol: str, principal: Callable[[], str]
) -> Callable[[], None]:
    """Trace ``app``, a Flask application, and return the function that ends it.

    ``principal`` returns the name of the caller. Raise ValueError if ``exporter`` or ``protocol``
    is not supported. Call this after the fork and before the first connection. A thread exports the
    spans, so that no request waits; without a collector they are dropped.
    """
    export = WithoutPersonalData(_exporter(exporter, protocol))
    provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
    provider.add_span_processor(OfRequests(export))
    set_global_response_propagator(TraceResponsePropagator())
    FlaskInstrumentor().instrument_app(
        app,
        tracer_provider=provider,
        excluded_urls=_NOT_TRACED,
        enable_commenter=False,
        request_hook=lambda span, _environ: _name_principal(span, principal()),
    )
    Psycopg2Instrumentor().instrument(tracer_provider=provider, skip_dep_check=True)
    RedisInstrumentor().instrument(tracer_provider=provider, skip_dep_check=True)
    return lambda: _flush(provider)


def _exporter(name: str, protocol: str) -> SpanExporter:
    if name == "console":
        return ConsoleSpanExporter()
    if name != "otlp":
        raise ValueError("OTEL_TRACES_EXPORTER is none of `otlp`, `console` and `none`")
    if protocol != "http/protobuf":
        raise ValueError("OTEL_EXPORTER_OTLP_PROTOCOL is not `http/protobuf`")
    return OTLPSpanExporter()


def _name_principal(span: trace.Span, name: str) -> None:
    if name:
        span.set_attribute("enduser.pseudo.id", name)


def current_ids() -> dict[str, str]:
    """Return the ids of the current span in hexadecimal, if there is one."""
    span = trace.get_current_span().get_span_context()
    if not span.is_valid:
        return {}
    trace_id, span_id = trace.format_trace_id(span.trace_id), trace.format_span_id(span.span_id)
    return {"trace_id": trace_id, "span_id": span_id}


class OfRequests(BatchSpanProcessor):
    """Keeps the spans of requests only.

    The statements of probes and migrations have no span above them: each would be a trace.
    """

    def on_end(self, span: ReadableSpan) -> None:
        """Queue a span for the export."""
        if span.parent is not None or span.kind is SpanKind.SERVER:
            super().on_end(span)


class WithoutPersonalData(SpanExporter):
    """Exports spans without query strings, unknown paths, literals of SQL and texts of errors.

    Nor do the spans of requests tell the address and the program of the client.

    Clients look for names and addresses in query strings, and an error of PostgreSQL repeats an
    address that exists already. The Redis instrumentation leaves out the arguments of commands.
    """

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export; called by the processor's thread."""
        return self._exporter.export([_without_personal_data(span) for span in spans])

    def shutdown(self) -> None:
        """Shut the exporter down."""
        self._exporter.shutdown()


def _without_personal_data(span: ReadableSpan) -> ReadableSpan:
    attributes = _safe(span.attributes or {})
    if span.kind is SpanKind.SERVER:
        attributes = {name: attributes[name] for name in attributes if not _CLIENT.fullmatch(name)}
    return ReadableSpan(
        name=_name(span, attributes),
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=attributes,
        links=span.links,
        kind=span.kind,
        status=Status(span.status.status_code),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def _name(span: ReadableSpan, attributes: Mapping[str, Any]) -> str:
    """Return the name; of SQL its first word, of a request without a route only the method."""
    if "postgresql" in (attributes.get("db.system"), attributes.get("db.system.name")):
        statement = next((attributes[name] for name in _STATEMENTS if name in attributes), "")
        return (statement.split() or [span.name])[0].rstrip(";")
    if span.kind is SpanKind.SERVER and "http.route" not in attributes:
        return str(attributes.get("http.method", attributes.get("http.request.method", "HTTP")))
    return span.name


def _safe(attributes: Mapping[str, Any]) -> dict[str, Any]:
    safe = {name: value for name, value in attributes.items() if name != "url.query"}
    for name in _URLS:
        if name in safe:
            safe[name] = str(safe[name]).partition("?")[0]
            # An unknown path may be anything, and so may a part of a known one without a converter.
            if "http.route" not in safe or _TEXT_PART.search(str(safe["http.route"])):
                del safe[name]
    for name in _STATEMENTS:
        if name in safe:
            safe[name] = _STRING.sub("?", _SETTINGS.sub("", str(safe[name]), count=1))
    return safe


def _resource() -> Resource:
    """Return the resource that the variables describe, with our name if they give none."""
    described = Resource.create()
    if not str(described.attributes["service.name"]).startswith("unknown_service"):
        return described
    return described.merge(Resource({"service.name": SERVICE_NAME}))


def _flush(provider: TracerProvider) -> None:
    # In a thread: with a collector that hangs, the library waits longer than a stop may take.
    last = threading.Thread(target=provider.shutdown, name="trace-flush", daemon=True)
    last.start()
    last.join(FLUSH_SECONDS)
