"""The ``Server-Timing`` header (W3C Server Timing): the stages of each response.

It is off by default, because it shows clients how the service works.
"""

from flask import Flask, Response

from user_service.observability import server_timing


def register_server_timing(app: Flask) -> None:
    """Add the milliseconds of each stage to every response; ``total`` includes the rest."""
    app.before_request(server_timing.begin)

    @app.after_request
    def add_header(response: Response) -> Response:
        response.headers["Server-Timing"] = ", ".join(
            f"{name};dur={1000 * seconds:.3f}" for name, seconds in server_timing.end().items()
        )
        return response
