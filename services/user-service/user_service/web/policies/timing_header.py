"""The ``Server-Timing`` header (W3C Server Timing): where the time of a response went.

Off unless SERVER_TIMING is on, since it tells strangers how the service works; then nothing of
this runs.
"""

import time

from flask import Flask, Response, g

from user_service.observability import server_timing


def register_server_timing(app: Flask) -> None:
    """Put the milliseconds of each stage into every response; what is in none is in ``total``."""

    @app.before_request
    def begin() -> None:
        g.timed_from = time.perf_counter()
        server_timing.begin()

    @app.after_request
    def tell(response: Response) -> Response:
        total = time.perf_counter() - g.timed_from
        seconds = {**server_timing.end(), "total": total}
        response.headers["Server-Timing"] = ", ".join(
            f"{name};dur={1000 * duration:.3f}" for name, duration in seconds.items()
        )
        return response
