"""What surrounds every request: its id, its line in the log, its metrics. Plain ASGI."""

import functools
import logging
import os
import re
import sys
import time
import uuid
from datetime import UTC, datetime

import orjson
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

OFFERED_ID = re.compile(rb"[A-Za-z0-9_-]{1,64}")
SECONDS = Histogram(
    "http_request_duration_seconds", "Time of requests", ["method", "route", "status"]
)
# labels() takes longer than all the rest of observing: each combination is asked for once.
seconds_of = functools.cache(SECONDS.labels)
METRICS_TYPE = CONTENT_TYPE_LATEST

access = logging.getLogger("access")


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line for ``record``."""
        line = {
            "timestamp": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line).decode()


def configure_logging() -> None:
    """Send the log to standard output, as JSON."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def metrics() -> bytes:
    """Return the metrics of this process, or of all where there are several."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    return generate_latest(registry)


class Observed:
    """An application around which every request is numbered, timed, counted and logged."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass on what is not one."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        request_id = id_of(scope)
        scope["request_id"] = request_id.decode()
        status = 500

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"].append((b"x-request-id", request_id))
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            finish(scope, status, time.perf_counter() - began)


def id_of(scope: Scope) -> bytes:
    """Return the id that the client offers, if it is of our form, or a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and OFFERED_ID.fullmatch(value):
            return value
    return uuid.uuid4().hex.encode()


def finish(scope: Scope, status: int, seconds: float) -> None:
    """Count and log a request that has been answered."""
    route = getattr(scope.get("route"), "path", "unmatched")
    method = scope["method"]
    seconds_of(method, route, status).observe(seconds)
    milliseconds = round(seconds * 1000, 2)
    fields = {
        "request_id": scope["request_id"],
        "method": method,
        "route": route,
        "status": status,
        "duration_ms": milliseconds,
    }
    access.info("%s %s %d %.2f ms", method, route, status, milliseconds, extra={"fields": fields})
