"""What surrounds every request: its id, its line in the log, its metrics; and ``/metrics``."""

import functools
import logging
import os
import re
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime

import orjson
from django.http import HttpRequest, HttpResponse
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

NO_CONTENT = 204
OFFERED_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
SECONDS = Histogram(
    "http_request_duration_seconds", "Time of requests", ["method", "route", "status"]
)
# labels() takes longer than all the rest of observing: each combination is asked for once.
seconds_of = functools.cache(SECONDS.labels)

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


class Observed:
    """Middleware: each request is numbered, timed, counted and logged."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answer a request."""
        began = time.perf_counter()
        offered = request.headers.get("X-Request-ID", "")
        request.id = offered if OFFERED_ID.fullmatch(offered) else uuid.uuid4().hex
        response = self._get_response(request)
        response.headers["X-Request-ID"] = request.id
        if response.status_code != NO_CONTENT:  # without a length, gunicorn would send chunks
            response.headers["Content-Length"] = str(len(response.content))
        finish(request, response.status_code, time.perf_counter() - began)
        return response


def finish(request: HttpRequest, status: int, seconds: float) -> None:
    """Count and log a request that has been answered."""
    match = request.resolver_match
    route = match.route if match else "unmatched"
    seconds_of(request.method, route, status).observe(seconds)
    milliseconds = round(seconds * 1000, 2)
    fields = {
        "request_id": request.id,
        "method": request.method,
        "route": route,
        "status": status,
        "duration_ms": milliseconds,
    }
    access.info(
        *("%s %s %d %.2f ms", request.method, route, status, milliseconds),
        extra={"fields": fields},
    )


def metrics(_request: HttpRequest) -> HttpResponse:
    """Return the metrics of this process, or of all where there are several."""
    registry = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
    return HttpResponse(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)
