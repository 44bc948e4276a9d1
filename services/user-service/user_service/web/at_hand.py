"""The request at hand, and its application, past Flask's proxies.

Through one of them, every look takes three calls more.
"""

from typing import TYPE_CHECKING

from flask import Flask, Request, current_app, request

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


def environ() -> "WSGIEnvironment":
    """Return the WSGI environment of the request at hand."""
    at_hand: Request = request._get_current_object()  # type: ignore[attr-defined]  # noqa: SLF001
    return at_hand.environ


def application() -> Flask:
    """Return the application that handles the request at hand."""
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]  # noqa: SLF001
    return app
