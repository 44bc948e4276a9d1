"""What surrounds every request: its id, its deadline, its line in the log."""

import logging
import time

from flask import Flask, Response, g, request

from user_service.observability import request_id
from user_service.resilience import deadline, retry

log = logging.getLogger("user_service.access")


def register_hooks(app: Flask, *, request_timeout: float, retry_policy: retry.RetryPolicy) -> None:
    """Give every request an id, ``request_timeout`` seconds and the policy for its retries."""

    @app.before_request
    def begin() -> None:
        g.started = time.perf_counter()
        request_id.begin(request.headers.get("X-Request-ID"))
        deadline.start(request_timeout)
        retry.policy_in_effect.set(retry_policy)

    app.after_request(_finish)
    app.teardown_request(_clear)


def _finish(response: Response) -> Response:
    response.headers["X-Request-ID"] = request_id.current()
    if log.isEnabledFor(logging.INFO):
        _log_request(response)
    return response


def _log_request(response: Response) -> None:
    route = request.url_rule.rule if request.url_rule else "unmatched"
    milliseconds = round((time.perf_counter() - g.started) * 1000, 2)
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


def _clear(_error: BaseException | None) -> None:
    deadline.clear()
    request_id.clear()
