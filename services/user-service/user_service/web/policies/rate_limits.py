"""Rate limits: a number of requests for each client in a window of time, and 429 beyond it.

Headers follow draft-ietf-httpapi-ratelimit-headers-11. Without RATE_LIMIT and RATE_LIMIT_WRITES,
requests are not counted at all.
"""

import logging

from flask import Flask, Response, g, request

from user_service.errors import RateLimited
from user_service.security import principal
from user_service.web.policies.client_address import Clients
from user_service.web.policies.cors import is_preflight
from user_service.web.policies.rate_limiter import Limit
from user_service.web.services import services_of

log = logging.getLogger(__name__)

READS = frozenset({"GET", "HEAD", "OPTIONS"})
# Probes, scrapes of Prometheus, and the documentation of the limits.
EXEMPT = ("/health", "/metrics", "/docs", "/openapi.json")


def register_limits(
    app: Flask, clients: Clients, *, default: str | None, writes: str | None
) -> None:
    """Limit each of ``clients`` to ``default`` requests, for example ``600/minute``.

    ``writes`` is a separate limit for writes; without it, they count for ``default``. None is no
    limit.
    """
    services = services_of(app)
    limiter = services.rate_limiter
    if limiter is None:
        return
    reading = Limit.parsed("default", default) if default else None
    writing = Limit.parsed("writes", writes) if writes else reading

    @app.before_request
    def count() -> None:
        limit = reading if request.method in READS else writing
        # A browser sends a preflight by itself, and gives the write up if it is refused.
        if limit is None or is_exempt(request.path) or is_preflight():
            return
        client = principal.current_name() or clients.key(request.remote_addr, request.headers)
        window = limiter.hit(limit, client)
        g.rate_limit = limit, window
        if not window.passes:
            log.info("rate limit %s used up by %s", limit.name, client)
            services.metrics.rate_limited.labels(limit.name).inc()
            raise RateLimited(limit.name, window.seconds)

    app.after_request(_announce)


def is_exempt(path: str) -> bool:
    """Tell whether requests for ``path`` are not counted."""
    return any(path == each or path.startswith(each + "/") for each in EXEMPT)


def _announce(response: Response) -> Response:
    if "rate_limit" in g:
        limit, window = g.rate_limit
        headers = response.headers
        headers["RateLimit-Policy"] = f'"{limit.name}";q={limit.amount};w={limit.seconds}'
        headers["RateLimit"] = f'"{limit.name}";r={window.remaining};t={window.seconds}'
    return response
