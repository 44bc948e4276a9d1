"""Flask without what this API has no use for: hosts in URLs, cookies, coroutines, odd headers.

Together it was a fifth of what Flask takes for a user.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from flask import Flask, Request, Response
from flask.sessions import NullSession, SessionInterface, SessionMixin
from werkzeug.routing import MapAdapter

from user_service.web.validation import JSON

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


class _NoSessions(SessionInterface):
    """One session for all, which can be neither filled nor sent."""

    _none = NullSession()

    def open_session(self, app: Flask, request: Request) -> SessionMixin:  # noqa: ARG002
        """Read no cookie."""
        return self._none


class Application(Flask):
    """A Flask whose URLs are paths: which ``Host`` a client names is never looked at."""

    session_interface = _NoSessions()

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``func`` as it is: no view here is a coroutine, which Flask asks each time."""
        return func

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """Bind the URLs to the path of ``request``; outside of a request there are none."""
        if request is None:
            return None
        environ = request.environ
        return MapAdapter(  # which Map.bind makes too, after it has encoded the host's name
            self.url_map,
            server_name="",
            script_name=environ.get("SCRIPT_NAME", ""),
            subdomain="",
            url_scheme="http",
            default_method=environ["REQUEST_METHOD"],
            # WSGI's strings hold bytes, one a character (PEP 3333).
            path_info=environ["PATH_INFO"].encode("latin-1").decode(errors="replace"),
            query_args=environ.get("QUERY_STRING", ""),
        )


class JsonResponse(Response):
    """A whole body of JSON, sent with the headers that it has.

    Flask's own would copy the headers first, to make absolute URIs and drop what has no place in
    an answer without body.
    """

    def __init__(
        self, body: bytes, *, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(body, status, headers, content_type=JSON)

    def __call__(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        """Send it."""
        if environ["REQUEST_METHOD"] == "HEAD":
            return super().__call__(environ, start_response)
        start_response(self.status, self.headers.to_wsgi_list())
        return self.iter_encoded()
