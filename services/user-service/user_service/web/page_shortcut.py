"""The way past Flask for pages that the cache has.

Of such a page's time, Flask's part (the request object, the URL map, the view's decorators, the
response object) was more than that of cache, log and metrics together. Under gunicorn, in turn on
a busy machine, CPU per request with it and without: 10 clients 750 and 420 us, 50 clients 660 and
395 us, 1 client 930 and 790 us, of which most is the wait for Redis.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from flask import Flask

from user_service.cache.pages import CacheStatus, PageCache
from user_service.cache.store import Found
from user_service.recent import Recent
from user_service.web import at_hand
from user_service.web.deprecation import deprecation_of
from user_service.web.listing import headers_and_body
from user_service.web.middleware import ROUTE
from user_service.web.validation import JSON, LONGEST_REMEMBERED_QUERY, REMEMBERED_QUERIES

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

# Places in the WSGI environment.
PAGE_NAME = "user_service.page_name"
LOOKED_UP = "user_service.looked_up"


class PageShortcut:
    """WSGI middleware that answers GET of ``endpoint`` from the page cache, without Flask.

    Which page a query string asks for, it has learnt from the view that answered it before. What
    is not in the cache, and all but the plainest of requests, goes on to Flask; so does everything
    if hooks of Flask have a say in the response (rate limits, CORS, Server-Timing, traces), or if
    the view is deprecated.
    """

    def __init__(self, app: Flask, pages: PageCache, endpoint: str) -> None:
        self._wsgi_app: WSGIApplication = app.wsgi_app
        self._pages = pages
        self._path = next(app.url_map.iter_rules(endpoint)).rule
        self._names: Recent[str, str] = Recent(REMEMBERED_QUERIES)
        self._is_open = not _has_hooks(app, endpoint) and deprecation_of(app, endpoint) is None

    def __call__(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        """Answer a request."""
        if (
            not self._is_open
            or environ["PATH_INFO"] != self._path
            or environ["REQUEST_METHOD"] != "GET"
            or "HTTP_IF_NONE_MATCH" in environ
        ):
            return self._wsgi_app(environ, start_response)
        query = environ.get("QUERY_STRING", "")
        name = self._names.get(query)
        if name is None:
            response = self._wsgi_app(environ, start_response)
            if PAGE_NAME in environ and len(query) <= LONGEST_REMEMBERED_QUERY:
                self._names.keep(query, environ[PAGE_NAME])
            return response
        found = self._pages.look_up(name)
        if found is None or found.body is None:
            environ[LOOKED_UP] = found
            return self._wsgi_app(environ, start_response)
        environ[ROUTE] = self._path
        headers, body = headers_and_body(found.body, CacheStatus.HIT)
        headers |= {"Content-Type": JSON, "Content-Length": str(len(body))}
        start_response("200 OK", list(headers.items()))
        return [body]


def look_up(pages: PageCache, name: str) -> Found | None:
    """Return what ``pages`` has for the request at hand: what the shortcut saw, if it looked.

    Once: who tries again is to look anew.
    """
    environ = at_hand.environ()
    environ[PAGE_NAME] = name
    if LOOKED_UP in environ:
        found: Found | None = environ.pop(LOOKED_UP)
        return found
    return pages.look_up(name)


def _has_hooks(app: Flask, endpoint: str) -> bool:
    """Tell whether functions of others are called before or after the view."""
    blueprint = endpoint.rpartition(".")[0]
    hooks = (
        app.before_request_funcs,
        app.after_request_funcs,
        app.teardown_request_funcs,
        app.url_value_preprocessors,
    )
    return any(each.get(scope) for each in hooks for scope in (None, blueprint))
