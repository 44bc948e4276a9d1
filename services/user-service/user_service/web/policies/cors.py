"""Cross-origin requests (WHATWG Fetch, section "CORS protocol") from the origins in CORS_ORIGINS.

Without CORS_ORIGINS no hook is registered. Flask-CORS would add patterns, options per route and
cookies, which this API does not need; the methods come from the routes.
"""

from flask import Flask, Response, request

from user_service.web.openapi.operations import REQUEST_HEADERS, RESPONSE_HEADERS

# The response headers that scripts may read, besides the few that they always may.
EXPOSED = ", ".join(sorted(RESPONSE_HEADERS.keys() - {"Cache-Control", "Last-Modified"}))
# The request headers that scripts may send, besides the few that they always may.
ALLOWED = ", ".join(sorted({"Authorization", "Content-Type", *REQUEST_HEADERS}))
# Firefox caches a preflight for as long as this; Chromium for 7200 s at most.
MAX_AGE_SECONDS = 86400
# For problems of a server, which may not have read the origin. They contain nothing private.
ANY_ORIGIN = (("Access-Control-Allow-Origin", "*"), ("Access-Control-Expose-Headers", EXPOSED))


def register_cors(app: Flask, origins: frozenset[str]) -> None:
    """Let scripts of ``origins`` call ``app``: of every origin with ``*``, of none if empty."""
    if not origins:
        return

    @app.after_request
    def allow(response: Response) -> Response:
        origin, headers = request.headers.get("Origin"), response.headers
        if "*" not in origins:
            # Also without an origin: a cache must not reuse that response for a request with one.
            response.vary.add("Origin")
        if origin is None or not origins & {"*", origin}:
            return response
        headers["Access-Control-Allow-Origin"] = "*" if "*" in origins else origin
        if is_preflight():
            # Flask has answered OPTIONS with the methods that the route takes.
            headers["Access-Control-Allow-Methods"] = headers.get("Allow", "")
            headers["Access-Control-Allow-Headers"] = ALLOWED
            headers["Access-Control-Max-Age"] = str(MAX_AGE_SECONDS)
        else:
            headers["Access-Control-Expose-Headers"] = EXPOSED
        return response


def is_preflight() -> bool:
    """Tell whether a browser asks if it may send the request of a script."""
    asks = "Access-Control-Request-Method" in request.headers
    return request.method == "OPTIONS" and "Origin" in request.headers and asks
