"""Rate limits: so many requests a client, told ahead in headers, and 429 beyond.

Headers as in draft-ietf-httpapi-ratelimit-headers-11. Off unless RATE_LIMIT or RATE_LIMIT_WRITES
is set; then nothing of this runs.
"""

import logging

from flask import Flask, Response, g, request

from user_service.errors import RateLimited
from user_service.web.policies.client_address import Clients
from user_service.web.policies.rate_limiter import Limit, Window
from user_service.web.services import services

log = logging.getLogger(__name__)

READS = frozenset({"GET", "HEAD", "OPTIONS"})
# For probes, for Prometheus and for who wants to know how to ask.
EXEMPT = ("/health", "/metrics", "/docs", "/openapi.json")


def register_limits(
    app: Flask, clients: Clients, *, default: str | None, writes: str | None
) -> None:
    """Let each of ``clients`` make ``default`` requests, like ``600/minute``.

    ``writes``, if given, is a limit of their own for those. None is no limit.
    """
    if default is None and writes is None:
        return
    reading = Limit.parsed("default", default) if default else None
    writing = Limit.parsed("writes", writes) if writes else reading

    @app.before_request
    def count() -> None:
        limit = reading if request.method in READS else writing
        if limit is None or is_exempt(request.path):
            return
        client = clients.key(request.remote_addr, request.headers)
        window = services().rate_limiter.hit(limit, client)
        g.rate_limit = limit, window
        if not window.passes:
            refuse(limit, window, client)

    app.after_request(_announce)


def is_exempt(path: str) -> bool:
    """Tell whether requests for ``path`` are not counted."""
    return path.startswith(EXEMPT) and any(
        path == each or path.startswith(each + "/") for each in EXEMPT
    )


def refuse(limit: Limit, window: Window, client: str) -> None:
    """Raise RateLimited. The one place that every refused request passes."""
    log.info("rate limit %s used up by %s", limit.name, client)
    services().metrics.http.count_rate_limited(limit.name)
    raise RateLimited(limit.name, window.seconds)


def _announce(response: Response) -> Response:
    if "rate_limit" in g:
        limit, window = g.rate_limit
        headers = response.headers
        headers["RateLimit-Policy"] = f'"{limit.name}";q={limit.amount};w={limit.seconds}'
        headers["RateLimit"] = f'"{limit.name}";r={window.remaining};t={window.seconds}'
    return response
