"""What surrounds every request: its id, its deadline, its metrics, its line in the log.

WSGI middleware rather than hooks of Flask: so it reaches whatever answers, and costs a third of
what it would there, where each header and each look at the request goes through several objects.
"""

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from flask import Flask
from werkzeug.routing import Rule

from user_service.observability import request_id
from user_service.observability.logs import AccessLog
from user_service.observability.metrics import UNMATCHED, HttpMetrics
from user_service.resilience import deadline
from user_service.web.policies import security_headers

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

# Where in the WSGI environment the route is named by whoever answers without Flask.
ROUTE = "user_service.route"
# What is counted and logged where the server ended a request, as of a client that is too slow;
# nginx has the same number for it.
UNANSWERED = 499


class RequestMiddleware:
    """Gives every request an id and ``request_timeout`` seconds.

    Every response gets ``X-Request-ID`` and the security headers; it is counted and logged when it
    begins, while Flask still knows the route, and a trace the span.
    """

    def __init__(
        self,
        wsgi_app: "WSGIApplication",
        *,
        request_timeout: float,
        access_log: AccessLog,
        metrics: HttpMetrics,
    ) -> None:
        self._wsgi_app = wsgi_app
        self._request_timeout = request_timeout
        self._access_log = access_log
        self._metrics = metrics

    def __call__(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        """Answer a request."""
        started = time.perf_counter()
        identifier = request_id.begin(environ.get("HTTP_X_REQUEST_ID"))
        deadline.start(self._request_timeout)

        is_answered = False

        # Its types are quoted, or they would be made anew with each request.
        def start(
            status: str,
            headers: "list[tuple[str, str]]",
            exc_info: Any = None,  # noqa: ANN401
        ) -> "Callable[[bytes], object]":
            nonlocal is_answered
            is_answered = True
            self._finish(environ, int(status[:3]), time.perf_counter() - started)
            headers.append(("X-Request-ID", identifier))
            return start_response(status, security_headers.added_to(headers), exc_info)

        self._metrics.in_flight.inc()
        try:
            return self._wsgi_app(environ, start)
        except BaseException as error:  # Flask's are answered; this one is for the server
            if not is_answered:
                status = 500 if isinstance(error, Exception) else UNANSWERED
                self._finish(environ, status, time.perf_counter() - started)
            raise
        finally:
            self._metrics.in_flight.dec()
            deadline.clear()
            request_id.clear()

    def _finish(self, environ: "WSGIEnvironment", status: int, seconds: float) -> None:
        route = environ.get(ROUTE) or _matched_route(environ)
        method = environ["REQUEST_METHOD"]
        self._metrics.observe(route, method, status, seconds)
        self._access_log.write(method, route or UNMATCHED, status, seconds)


def _matched_route(environ: "WSGIEnvironment") -> str | None:
    # Flask's request, if it came as far as that; werkzeug puts it there.
    rule: Rule | None = getattr(environ.get("werkzeug.request"), "url_rule", None)
    return rule.rule if rule is not None else None


def expect_failures(app: Flask, metrics: HttpMetrics) -> None:
    """Begin the series of 500 and 503 with 0, or the first failure would not count as one more."""
    for rule in app.url_map.iter_rules():
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
            if rule.rule.startswith("/api/"):
                metrics.expect(rule.rule, method, 500)
                metrics.expect(rule.rule, method, 503)
