"""The way past Flask for the plainest of requests: pages that the cache has, and users by id.

Of a cached page's time, Flask's part (the request object, the URL map, the view's decorators, the
response object) was more than that of cache, log and metrics together: under gunicorn, 10 clients
get 1.7 times as many without it, and 1.4 times as many users.

The views stay what they are: what a shortcut met that is no plain answer, the view meets in its
place, and retries it, tells it as a problem, or reads on from there.
"""

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import TYPE_CHECKING

from flask import Flask

from user_service.cache.page_cache import CacheStatus, PageCache
from user_service.cache.page_store import Found
from user_service.domain.user import User
from user_service.recent import Recent
from user_service.web import at_hand
from user_service.web.middleware import ROUTE
from user_service.web.policies.deprecation import deprecation_of
from user_service.web.requests.fields import BIGINT_MAX
from user_service.web.requests.validation import JSON, LONGEST_REMEMBERED_QUERY, REMEMBERED_QUERIES
from user_service.web.responses.pages import headers_and_body
from user_service.web.responses.user_body import entity_headers, json_of
from user_service.web.services import services_of

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

# Places in the WSGI environment.
PAGE_NAME = "user_service.page_name"
LOOKED_UP = "user_service.looked_up"
FAILED = "user_service.failed"
# Shorter ids are bigints, whatever their digits.
LONGEST_ID = len(str(BIGINT_MAX))

Read = Callable[[int], User]


class _Shortcut:
    """What the shortcuts of an endpoint have in common.

    If hooks of Flask have a say in its responses (rate limits, CORS, Server-Timing, traces), or if
    its view is deprecated, a shortcut is closed: then everything goes on to Flask, as does all but
    the plainest of requests. Whether that is so is looked at when the first request comes.
    """

    def __init__(self, app: Flask, wsgi_app: "WSGIApplication", endpoint: str) -> None:
        self._app = app
        self._endpoint = endpoint
        self._wsgi_app = wsgi_app
        self._route = next(app.url_map.iter_rules(endpoint)).rule

    @cached_property
    def _is_open(self) -> bool:
        is_deprecated = deprecation_of(self._app, self._endpoint) is not None
        return not is_deprecated and not _has_hooks(self._app, self._endpoint)


class PageShortcut(_Shortcut):
    """WSGI middleware that answers GET of ``endpoint`` from the page cache, without Flask.

    Which page a query string asks for, it has learnt from the view that answered it before. What
    is not in the cache goes on to Flask.
    """

    def __init__(
        self, app: Flask, wsgi_app: "WSGIApplication", pages: PageCache, endpoint: str
    ) -> None:
        super().__init__(app, wsgi_app, endpoint)
        self._pages = pages
        self._names: Recent[str, str] = Recent(REMEMBERED_QUERIES)

    def __call__(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        """Answer a request."""
        if (
            not self._is_open
            or environ["PATH_INFO"] != self._route
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
        environ[ROUTE] = self._route
        headers, body = headers_and_body(found.body, CacheStatus.HIT)
        return _send(start_response, headers, body)


class UserShortcut(_Shortcut):
    """WSGI middleware that answers GET of ``endpoint`` by what ``read`` returns, without Flask.

    It is for whoever asks for a user unconditionally and for nothing else; what ``read`` raises is
    raised once more by the view, as its own first attempt.
    """

    def __init__(self, app: Flask, wsgi_app: "WSGIApplication", read: Read, endpoint: str) -> None:
        super().__init__(app, wsgi_app, endpoint)
        self._read = read
        self._before_id = self._route.partition("<")[0]

    def __call__(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        """Answer a request."""
        user_id = self._plainly_asked_for(environ) if self._is_open else None
        if user_id is None:
            return self._wsgi_app(environ, start_response)
        try:
            user = self._read(user_id)
            headers, body = entity_headers(user), json_of(user)
        except Exception as error:  # noqa: BLE001 -- the view raises it
            environ[FAILED] = error
        else:
            services_of(self._app).retry_policy.budget.pay_in()
            environ[ROUTE] = self._route
            return _send(start_response, headers, body)
        # Not within the except, or the failure would be the context of all that the view raises.
        return self._wsgi_app(environ, start_response)

    def _plainly_asked_for(self, environ: "WSGIEnvironment") -> int | None:
        if (
            environ["REQUEST_METHOD"] != "GET"
            or environ.get("QUERY_STRING")
            or "HTTP_IF_NONE_MATCH" in environ
            or "HTTP_IF_MODIFIED_SINCE" in environ
            or not environ["PATH_INFO"].startswith(self._before_id)
        ):
            return None
        digits = environ["PATH_INFO"][len(self._before_id) :]
        # WSGI's strings are in latin-1, which has no decimal digits but those of ASCII.
        return int(digits) if digits.isdecimal() and len(digits) < LONGEST_ID else None


def read_user(read: Read, user_id: int) -> User:
    """Return what ``read`` does; raise what it has raised already for the request at hand, once."""
    failed: Exception | None = at_hand.environ().pop(FAILED, None)
    if failed is not None:
        try:
            raise failed
        finally:
            del failed
    return read(user_id)


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


def _send(start_response: "StartResponse", headers: dict[str, str], body: bytes) -> Iterable[bytes]:
    headers |= {"Content-Type": JSON, "Content-Length": str(len(body))}
    start_response("200 OK", list(headers.items()))
    return [body]


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
