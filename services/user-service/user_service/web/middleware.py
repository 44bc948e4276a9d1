"""The frame of every request: its id, its deadline, its metrics and its line in the log."""

import time
from collections.abc import Callable, Iterable
from http.client import responses
from typing import TYPE_CHECKING
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from flask import Flask

from user_service.observability import request_id
from user_service.observability.logs import log_request
from user_service.observability.metrics import UNMATCHED, Metrics
from user_service.resilience import deadline
from user_service.security import principal
from user_service.web.fast_path import FastPath
from user_service.web.policies import security_headers
from user_service.web.policies.authentication import Authentication

if TYPE_CHECKING:
    from _typeshed import OptExcInfo

# The status for a request that the server ended before an answer, as gunicorn does some time after
# a reload. nginx uses the same number.
UNANSWERED = 499


class RequestMiddleware:
    """WSGI middleware that gives a request its id and ``request_timeout`` seconds.

    Every response gets ``X-Request-ID`` and the security headers. It is counted and logged when it
    starts, while Flask still knows the route and a trace its span. ``fast_path`` answers plain
    reads before Flask; None leaves every request to Flask. ``authentication`` establishes the
    principal before both; None trusts all callers.
    """

    def __init__(
        self,
        wsgi_app: WSGIApplication,
        *,
        request_timeout: float,
        metrics: Metrics,
        fast_path: FastPath | None = None,
        authentication: Authentication | None = None,
    ) -> None:
        self._wsgi_app = wsgi_app
        self._request_timeout = request_timeout
        self._metrics = metrics
        self._fast_path = fast_path
        self._authentication = authentication

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        started = time.perf_counter()
        is_answered, route = False, None
        # Ignored (RFC 9110, section 7.8). Werkzeug would match routes of WebSocket alone.
        environ.pop("HTTP_UPGRADE", None)
        # No span shows it. OpenTelemetry would parse it slowly, and log each malformed member.
        environ.pop("HTTP_BAGGAGE", None)

        def start(
            status: str, headers: list[tuple[str, str]], exc_info: "OptExcInfo | None" = None
        ) -> Callable[[bytes], object]:
            nonlocal is_answered
            is_answered = True
            self._record(environ, route, int(status[:3]), started)
            headers = [*headers, ("X-Request-ID", identifier)]
            return start_response(status, security_headers.added_to(headers), exc_info)

        with (
            request_id.of_request(environ.get("HTTP_X_REQUEST_ID")) as identifier,
            deadline.within(self._request_timeout),
            self._metrics.in_flight.track_inprogress(),
        ):
            try:
                if self._authentication is not None:
                    principal.begin(self._authentication.caller(environ.get("HTTP_AUTHORIZATION")))
                answer = self._fast_path(environ) if self._fast_path is not None else None
                if answer is None:
                    return self._wsgi_app(environ, start)
                route, (code, headers, body) = answer
                status_line = f"{code} {responses[code].upper()}"  # as Werkzeug writes it
                start(status_line, [*headers.items(), ("Content-Length", str(len(body)))])
            except BaseException as error:
                if not is_answered:
                    status = 500 if isinstance(error, Exception) else UNANSWERED
                    self._record(environ, route, status, started)
                raise
            else:
                return [body]
            finally:
                if self._authentication is not None:
                    principal.clear()

    def _record(
        self, environ: WSGIEnvironment, route: str | None, status: int, started: float
    ) -> None:
        """Count and log the request. Without ``route``, Flask knows which one has matched."""
        method, seconds = environ["REQUEST_METHOD"], time.perf_counter() - started
        if route is None:  # Werkzeug puts Flask's request into the environment
            rule = getattr(environ.get("werkzeug.request"), "url_rule", None)
            route = UNMATCHED if rule is None else rule.rule
        self._metrics.observe(route, method, status, seconds)
        name = None
        if self._authentication is not None:
            name = principal.current_name() or "-"
        log_request(method, route, status, seconds, name)


def expect_failures(app: Flask, metrics: Metrics) -> None:
    """Begin the series of 500 and 503 at 0: Prometheus sees no increase in a series that is new."""
    for rule in app.url_map.iter_rules():
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
            if rule.rule.startswith("/api/"):
                metrics.expect(rule.rule, method, 500)
                metrics.expect(rule.rule, method, 503)
