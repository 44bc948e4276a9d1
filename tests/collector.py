"""A collector of traces: OTLP over HTTP in protobuf, as OpenTelemetry's exporters send it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.http_servers import http_server


@dataclass(frozen=True)
class Span:
    """One received span, with its ids in hexadecimal."""

    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    service: str
    attributes: dict[str, Any]
    text: str


class Collector:
    """Keeps the spans it receives; each response takes ``hangs`` seconds."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.url = ""
        self.hangs = 0.0

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers["Content-Length"]))
        time.sleep(self.hangs)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            service = values(resource.resource.attributes)["service.name"]
            for scope in resource.scope_spans:
                self.spans += [span_of(sent, service) for sent in scope.spans]
        request.send_response(200)
        request.end_headers()

    def trace(self, trace_id: str) -> list[Span]:
        return [span for span in self.spans if span.trace_id == trace_id]


def span_of(sent: Any, service: str) -> Span:
    ids = (sent.trace_id.hex(), sent.span_id.hex(), sent.parent_span_id.hex())
    return Span(sent.name, sent.kind, *ids, service, values(sent.attributes), str(sent))


def values(attributes: Any) -> dict[str, Any]:
    return {
        each.key: getattr(each.value, str(each.value.WhichOneof("value"))) for each in attributes
    }


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()
    with http_server(collector.answer) as port:
        collector.url = f"http://127.0.0.1:{port}"
        yield collector
