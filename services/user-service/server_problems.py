"""Problems for requests that a server refuses before they reach the application."""

import logging

from user_service.observability import request_id

log = logging.getLogger(__name__)


def server_problem(status: int, title: str, detail: str) -> tuple[list[tuple[str, str]], bytes]:
    """Return headers and body of the response, after which the connection is to be closed.

    The line in the log is the only one about such a request.
    """
    # Imported here: gevent must patch the standard library before Flask is imported.
    from user_service.web.policies import security_headers  # noqa: PLC0415
    from user_service.web.problems import Problem  # noqa: PLC0415

    identifier = request_id.begin(None)
    reply = Problem(status, title, detail).reply()
    request_id.clear()
    log.warning("refused by the server: %d %s, request_id=%s", status, detail, identifier)
    headers = [
        *reply.headers.items(),
        ("Connection", "close"),
        ("Content-Length", str(len(reply.body))),
        ("X-Request-ID", identifier),
    ]
    return security_headers.added_to(headers), reply.body
