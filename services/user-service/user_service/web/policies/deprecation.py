"""Deprecated routes: the headers ``Deprecation`` (RFC 9745) and ``Sunset`` (RFC 8594).

docs/VERSIONING.md has the rules. No route is deprecated now.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from flask import Blueprint, Flask, Response, current_app, request
from werkzeug.http import http_date

Deprecated = TypeVar("Deprecated", bound=Callable[..., object] | Blueprint)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deprecation:
    """Marks a view or a whole blueprint as deprecated. Problems and redirects say so, too.

    The deprecation begins ``since``, and the route may be gone from ``sunset`` on, which must not
    be before. Both times need an offset. ``link`` is the URL of an explanation.
    """

    since: datetime
    sunset: datetime | None = None
    link: str | None = None

    def __post_init__(self) -> None:
        times = [time for time in (self.since, self.sunset) if time is not None]
        if any(time.tzinfo is None for time in times):
            raise ValueError("the times of a deprecation need an offset")
        if times != sorted(times):
            raise ValueError("the sunset must not be before the deprecation")

    def __call__(self, target: Deprecated) -> Deprecated:
        """Mark ``target``."""
        vars(target)["deprecation"] = self
        return target

    def announce(self, response: Response) -> Response:
        """Add the headers to ``response``."""
        response.headers["Deprecation"] = f"@{int(self.since.timestamp())}"
        if self.sunset:
            response.headers["Sunset"] = http_date(self.sunset)
        if self.link:
            # A second header, because the response may have links already.
            relations = "deprecation sunset" if self.sunset else "deprecation"
            response.headers.add("Link", f'<{self.link}>; rel="{relations}"; type="text/html"')
        return response


def register_deprecations(app: Flask) -> None:
    """Announce each deprecation in all responses of its routes, problems included.

    The hook closes the fast path, so there is none without a deprecated route.
    """
    if any(deprecation_of(app, endpoint) for endpoint in app.view_functions):
        app.after_request(_announce)


def deprecation_of(app: Flask, endpoint: str | None) -> Deprecation | None:
    """Return the deprecation of a route's view or blueprint; None if neither is deprecated."""
    if endpoint is None:  # the request matches no route
        return None
    found: Deprecation | None = getattr(app.view_functions[endpoint], "deprecation", None)
    blueprint = app.blueprints.get(endpoint.rpartition(".")[0])
    return found or getattr(blueprint, "deprecation", None)


def _announce(response: Response) -> Response:
    deprecation = deprecation_of(current_app, request.endpoint)
    return response if deprecation is None else deprecation.announce(response)
