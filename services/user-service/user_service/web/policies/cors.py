"""Cross-origin requests (WHATWG Fetch, section "CORS protocol"): which web pages may call.

Off unless CORS_ORIGINS is set; then nothing of this runs. So short a module, rather than
Flask-CORS: no patterns, no options per route, no cookies; the methods come from the routes.
"""

from flask import Flask, Response, request

# What scripts may read beside the few headers that they always may.
EXPOSED = (
    "Deprecation, ETag, Idempotent-Replay, Link, Location, RateLimit, RateLimit-Policy, "
    "Retry-After, Server-Timing, Sunset, X-Cache, X-Request-ID"
)
# What scripts may send beside the few headers that they always may.
ALLOWED = (
    "Content-Type, Idempotency-Key, If-Match, If-Modified-Since, If-None-Match, "
    "If-Unmodified-Since, X-Request-ID"
)
# As long as Firefox believes it; Chromium believes 7200.
MAX_AGE_SECONDS = 86400


def register_cors(app: Flask, origins: frozenset[str]) -> None:
    """Let scripts of ``origins`` call ``app``; of all origins if ``*`` is one, of none if empty."""
    if not origins:
        return

    @app.after_request
    def allow(response: Response) -> Response:
        origin = request.headers.get("Origin")
        if "*" in origins:
            allowed: str | None = "*"
        else:
            # Also where there is no origin: a cache must not give that response to one that has.
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
