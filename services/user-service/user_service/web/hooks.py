"""What surrounds every request: its id, its deadline, its line in the log, its metrics."""

import logging
import time

from flask import Flask, Response, g, request

from user_service.observability import request_id
from user_service.observability.metrics import UNMATCHED, HttpMetrics
from user_service.resilience import deadline, retry

log = logging.getLogger("user_service.access")


def register_hooks(
    app: Flask,
    *,
    request_timeout: float,
    retry_policy: retry.RetryPolicy,
    metrics: HttpMetrics,
) -> None:
    """Give every request an id, ``request_timeout`` seconds and the policy for its retries."""

    @app.before_request
    def begin() -> None:
        g.started = time.perf_counter()
        metrics.in_flight.inc()
        request_id.begin(request.headers.get("X-Request-ID"))
        deadline.start(request_timeout)
        retry.policy_in_effect.set(retry_policy)

    @app.after_request
    def finish(response: Response) -> Response:
        response.headers["X-Request-ID"] = request_id.current()
        seconds = time.perf_counter() - g.started
        route = request.url_rule.rule if request.url_rule else None
        metrics.observe(route, request.method, response.status_code, seconds)
        if log.isEnabledFor(logging.INFO):
            _log_request(response, route or UNMATCHED, seconds)
        return response

    @app.teardown_request
    def clear(_error: BaseException | None) -> None:
        if g.pop("started", None) is not None:
            metrics.in_flight.dec()
        deadline.clear()
        request_id.clear()


def expect_failures(app: Flask, metrics: HttpMetrics) -> None:
    """Begin the series of 500 and 503 with 0, or the first failure would not count as one more."""
    for rule in app.url_map.iter_rules():
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
            if rule.rule.startswith("/api/"):
                metrics.expect(rule.rule, method, 500)
                metrics.expect(rule.rule, method, 503)


def _log_request(response: Response, route: str, seconds: float) -> None:
    milliseconds = round(seconds * 1000, 2)
    log.info(
        "%s %s %d %.2f ms",
        request.method,
        route,
        response.status_code,
        milliseconds,
        extra={
            "fields": {
                "method": request.method,
                "route": route,
                "status": response.status_code,
                "duration_ms": milliseconds,
            }
        },
    )
