"""The permission that each route needs: declared once on its view, enforced and documented.

A view is marked by ``@needs`` or ``@open_to_all``; ``enforce`` refuses one without a mark.
"""

import functools
from collections.abc import Callable, Mapping, Set
from typing import Any, NamedTuple, TypeVar, cast

from flask import Flask

from user_service.security import principal

V = TypeVar("V", bound=Callable[..., Any])

SCOPES: Mapping[str, str] = {
    "users:read": "List and read users",
    "users:write": "Create, replace and change users",
    "users:delete": "Delete users",
    "service:read": "Read the metrics and the state of the service",
}


class Access(NamedTuple):
    """The ``scope`` that a view needs, unless AUTH_PUBLIC names ``public``; None for no scope."""

    scope: str | None
    public: str | None = None


class UndeclaredAccess(Exception):
    """A view has neither ``@needs`` nor ``@open_to_all``."""


def needs(scope: str, *, unless_public: str | None = None) -> Callable[[V], V]:
    """Let only principals with ``scope`` call the view, or all if ``unless_public`` is public."""
    if scope not in SCOPES:
        raise ValueError(f"{scope} is no scope")

    def mark(view: V) -> V:
        vars(view)["access"] = Access(scope, unless_public)
        return view

    return mark


def open_to_all(view: V) -> V:
    """Let everyone call the view."""
    vars(view)["access"] = Access(None)
    return view


def enforce(app: Flask, public: Set[str] | None) -> None:
    """Check the permission before each view, or none if ``public`` is None.

    The check comes before the view looks at the request. ``OPTIONS`` and unknown paths call no
    view that needs a permission. Raise UndeclaredAccess if a view has no mark.
    """
    for endpoint, view in app.view_functions.items():
        access = vars(view).get("access")
        if not isinstance(access, Access):
            raise UndeclaredAccess(endpoint)
        if public is not None and access.scope is not None and access.public not in public:
            app.view_functions[endpoint] = _guarded(view, access.scope)


def required_scope(app: Flask, endpoint: str) -> str | None:
    """Return the scope that ``enforce`` checks for a route, if there is one."""
    scope: str | None = vars(app.view_functions[endpoint]).get("required_scope")
    return scope


def _guarded(view: V, scope: str) -> V:
    @functools.wraps(view)
    def call(**arguments: object) -> object:
        principal.require(scope)
        return view(**arguments)

    vars(call)["required_scope"] = scope
    return cast("V", call)
