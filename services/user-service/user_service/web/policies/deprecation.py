"""Deprecated routes: the headers ``Deprecation`` (RFC 9745) and ``Sunset`` (RFC 8594).

docs/VERSIONING.md has the rules. No route is deprecated now.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar, cast

from flask import Blueprint, Flask, Response, after_this_request
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
        if isinstance(target, Blueprint):
            target.after_request(self.announce)
            vars(target)["deprecation"] = self
            return target

        @functools.wraps(target)
        def call(**arguments: object) -> object:
            after_this_request(self.announce)
            return target(**arguments)

        vars(call)["deprecation"] = self
        return cast("Deprecated", call)

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


def deprecation_of(app: Flask, endpoint: str) -> Deprecation | None:
    """Return the deprecation of a route's view or blueprint; None if neither is deprecated."""
    found: Deprecation | None = getattr(app.view_functions[endpoint], "deprecation", None)
    blueprint = app.blueprints.get(endpoint.rpartition(".")[0])
    return found or getattr(blueprint, "deprecation", None)
