"""What surrounds every request: its id, its line in the log, its metrics."""

import functools
import logging
import os
import re
import sys
import time
import uuid
from datetime import UTC, datetime

import orjson
from flask import Flask, Response, g, request
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

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


def observe(app: Flask) -> None:
    """Have each request of ``app`` numbered, timed, counted and logged; serve ``/metrics``."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    app.before_request(begin)
    app.after_request(finish)
    app.add_url_rule("/metrics", view_func=metrics)


def begin() -> None:
    """Give the request its id."""
    g.began = time.perf_counter()
    offered = request.headers.get("X-Request-ID", "")
    g.request_id = offered if OFFERED_ID.fullmatch(offered) else uuid.uuid4().hex


def finish(response: Response) -> Response:
    """Count and log a request that has been answered."""
    response.headers["X-Request-ID"] = g.request_id
    seconds = time.perf_counter() - g.began
    method, status = request.method, response.status_code
    route = request.url_rule.rule if request.url_rule else "unmatched"
    seconds_of(method, route, status).observe(seconds)
    milliseconds = round(seconds * 1000, 2)
    fields = {
        "request_id": g.request_id,
        "method": method,
        "route": route,
        "status": status,
        "duration_ms": milliseconds,
    }
    access.info("%s %s %d %.2f ms", method, route, status, milliseconds, extra={"fields": fields})
    return response


def metrics() -> Response:
    """Return the metrics of this process, or of all where there are several."""
    registry = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
    return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)
