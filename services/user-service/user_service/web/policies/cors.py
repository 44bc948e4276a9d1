"""Cross-origin requests (WHATWG Fetch, section "CORS protocol") from the origins in CORS_ORIGINS.

Without CORS_ORIGINS no hook is registered. Flask-CORS would add patterns, options per route and
cookies, which this API does not need; the methods come from the routes.
"""

from flask import Flask, Response, request

# The response headers that scripts may read, besides the few that they always may.
EXPOSED = (
    "Deprecation, ETag, Idempotent-Replay, Link, Location, RateLimit, RateLimit-Policy, "
    "Retry-After, Server-Timing, Sunset, X-Cache, X-Request-ID"
)
# The request headers that scripts may send, besides the few that they always may.
ALLOWED = (
    "Content-Type, Idempotency-Key, If-Match, If-Modified-Since, If-None-Match, "
    "If-Unmodified-Since, X-Request-ID"
)
# Firefox caches a preflight for as long as this; Chromium for 7200 s at most.
MAX_AGE_SECONDS = 86400
# For problems of a server, which may not have read the origin. They contain nothing private.
ANY_ORIGIN = (
    ("Access-Control-Allow-Origin", "*"),
    ("Access-Control-Expose-Headers", EXPOSED),
)


def register_cors(app: Flask, origins: frozenset[str]) -> None:
    """Let scripts of ``origins`` call ``app``: of every origin with ``*``, of none if empty."""
    if not origins:
        return

    @app.after_request
    def allow(response: Response) -> Response:
        origin = request.headers.get("Origin")
        if "*" in origins:
            allowed: str | None = "*"
        else:
            # Also without an origin: a cache must not reuse that response for a request with one.
            response.vary.add("Origin")
            allowed = origin if origin in origins else None
        if origin is not None and allowed is not None:
            response.headers["Access-Control-Allow-Origin"] = allowed
            _grant(response)
        return response


def is_preflight() -> bool:
    """Tell whether a browser asks if it may send the request of a script."""
    headers = request.headers
    return (
        request.method == "OPTIONS"
        and "Origin" in headers
        and "Access-Control-Request-Method" in headers
    )


def _grant(response: Response) -> None:
    if not is_preflight():
        response.headers["Access-Control-Expose-Headers"] = EXPOSED
        return
    # Flask has answered OPTIONS with the methods that the route takes.
    response.headers["Access-Control-Allow-Methods"] = response.headers.get("Allow", "")
    response.headers["Access-Control-Allow-Headers"] = ALLOWED
    response.headers["Access-Control-Max-Age"] = str(MAX_AGE_SECONDS)
