"""The ``Server-Timing`` header (W3C Server Timing): the stages of each response.

It is off by default, because it shows clients how the service works.
"""

import time

from flask import Flask, Response, g

from user_service.observability import server_timing


def register_server_timing(app: Flask) -> None:
    """Add the milliseconds of each stage to every response; ``total`` includes the rest."""

    @app.before_request
    def begin() -> None:
        g.timed_from = time.perf_counter()
        server_timing.begin()

    @app.after_request
    def add_header(response: Response) -> Response:
        total = time.perf_counter() - g.timed_from
        seconds = {**server_timing.end(), "total": total}
        response.headers["Server-Timing"] = ", ".join(
            f"{name};dur={1000 * duration:.3f}" for name, duration in seconds.items()
        )
        return response
