"""Problems for requests that a server refuses before they reach the application."""

import logging
import uuid

import orjson

from user_service.web.policies import security_headers

log = logging.getLogger(__name__)


def server_problem(status: int, title: str, detail: str) -> tuple[list[tuple[str, str]], bytes]:
    """Return headers and body of the response, after which the connection is to be closed.

    The line in the log is the only one about such a request.
    """
    request_id = uuid.uuid4().hex
    log.warning("refused by the server: %d %s, request_id=%s", status, detail, request_id)
    body = orjson.dumps(
        {
            "type": "about:blank",
            "title": title,
            "status": status,
            "detail": detail,
            "error": detail,
            "request_id": request_id,
        }
    )
    headers = [
        ("Connection", "close"),
        ("Content-Type", "application/problem+json"),
        ("Content-Length", str(len(body))),
        ("X-Request-ID", request_id),
        *security_headers.HEADERS,
    ]
    return headers, body
