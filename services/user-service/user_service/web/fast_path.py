"""The fast path: plain reads of pages and users, answered without Flask's dispatch.

It calls the same functions as the views, retries and problems included, and leaves everything
else to Flask: other methods, conditional requests, other paths, and every request if hooks or
error handlers take part in the responses of these routes.
"""

import re
from functools import cached_property
from wsgiref.types import WSGIEnvironment

from flask import Flask

from user_service.cache.page_cache import CacheStatus
from user_service.domain.user import BIGINT_MAX
from user_service.security import principal
from user_service.web.policies.access import required_scope
from user_service.web.problems import problem_reply, problem_response
from user_service.web.reads import read_page, read_user
from user_service.web.requests.schemas import ListQuery
from user_service.web.requests.validation import parse_query
from user_service.web.responses.pages import USERS_PATH, page_reply
from user_service.web.responses.reply import Reply
from user_service.web.responses.user_body import user_reply
from user_service.web.services import Services

VIEWS = ("users.list_users", "users.get_user")
CACHED = (CacheStatus.HIT, CacheStatus.MISS)
# As the URL map spells it: the label of metrics and of the access log.
USER_ROUTE = f"{USERS_PATH}/<user_id:user_id>"
# Ids with fewer digits than the largest one are bigints.
USER_PATH = re.compile(rf"{USERS_PATH}/([0-9]{{1,{len(str(BIGINT_MAX)) - 1}}})")


class FastPath:
    """Answers plain GET requests of one application, and returns None for all others.

    With ``tells_place``, pages tell where they are in Redis. The gateway serves them from there as
    long as it is told, hence never while Flask's hooks must see every request, or a permission is
    needed.
    """

    def __init__(self, app: Flask, services: Services, *, tells_place: bool = False) -> None:
        self._app = app
        self._services = services
        self._tells_place = tells_place

    @cached_property
    def _scope(self) -> str | None:
        """The scope that both views need, if authentication is on."""
        return required_scope(self._app, VIEWS[0])

    @cached_property
    def _is_open(self) -> bool:
        """Whether Flask would only call the view. Set-up is complete at the first request."""
        app, scopes = self._app, (None, "users")  # of the application and of the blueprint
        hooks = (
            app.before_request_funcs,
            app.after_request_funcs,
            app.teardown_request_funcs,
            app.url_value_preprocessors,
        )
        has_hooks = any(each.get(scope) for each in hooks for scope in scopes)
        handlers = {
            handler
            for scope in scopes
            for by_error in app.error_handler_spec.get(scope, {}).values()
            for handler in by_error.values()
        }
        has_one_scope = len({required_scope(app, view) for view in VIEWS}) == 1
        # In debug mode the developer gets the traceback.
        is_closed = app.debug or has_hooks or handlers - {problem_response}
        return has_one_scope and not is_closed

    def __call__(self, environ: WSGIEnvironment) -> tuple[str, Reply] | None:
        """Return route and response, or None if the request is Flask's."""
        if (
            not self._is_open
            or environ["REQUEST_METHOD"] != "GET"
            or "HTTP_IF_NONE_MATCH" in environ
            or "HTTP_IF_MODIFIED_SINCE" in environ
            or environ.get("SCRIPT_NAME")
        ):
            return None
        path, query_string = environ["PATH_INFO"], environ.get("QUERY_STRING", "")
        user = USER_PATH.fullmatch(path)
        if path != USERS_PATH and (user is None or query_string):
            return None
        try:
            if self._scope is not None:
                principal.require(self._scope)
            if user is None:
                query = parse_query(ListQuery, query_string)
                page, status = read_page(self._services, query)
                reply = page_reply(page, status)
                if self._tells_place and self._scope is None and status in CACHED:
                    reply.headers["X-Page-Place"] = self._services.pages.store.place()
            else:
                reply = user_reply(read_user(self._services, int(user[1])))
        except Exception as error:  # noqa: BLE001 -- as Flask's error handlers do
            reply = problem_reply(error)
        return USERS_PATH if user is None else USER_ROUTE, reply
