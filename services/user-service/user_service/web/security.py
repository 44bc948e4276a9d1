"""What browsers are told not to do with our responses. No Flask: the worker imports it too.

The headers are those that OWASP's REST Security Cheat Sheet asks of an API, but for two: HTTPS for
good (Strict-Transport-Security) is for whoever ends TLS to promise, and a policy for the features
of a page (Permissions-Policy) says nothing about JSON, which is none.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

HEADERS = (
    # JSON is JSON, whatever a browser finds in it that looks like HTML or a script.
    ("X-Content-Type-Options", "nosniff"),
    # If it is shown after all: it loads nothing, runs nothing, and stands in nobody's frame.
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
    # Addresses here hold ids and search terms; no link passes them on.
    ("Referrer-Policy", "no-referrer"),
    # No page of another origin may embed it. Scripts of CORS_ORIGINS ask by CORS, which this
    # header is not consulted for.
    ("Cross-Origin-Resource-Policy", "same-origin"),
)


class SecurityHeaders:
    """WSGI middleware that adds ``HEADERS`` to each response, but for those that it has already.

    Around Flask rather than in a hook: so it reaches whatever answers, and costs 1 us, where
    Flask would handle each header twice.
    """

    def __init__(self, wsgi_app: "WSGIApplication") -> None:
        self._wsgi_app = wsgi_app

    def __call__(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        """Answer a request."""

        def start(
            status: str,
            headers: list[tuple[str, str]],
            exc_info: Any = None,  # noqa: ANN401
        ) -> Callable[[bytes], object]:
            names = [name for name, _ in headers]
            added = [header for header in HEADERS if header[0] not in names]
            return start_response(status, headers + added, exc_info)

        return self._wsgi_app(environ, start)
