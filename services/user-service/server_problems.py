"""Problems about requests that never reach Flask: the server itself has to answer them."""

import logging
import uuid

import orjson

from user_service.web.policies import security_headers

log = logging.getLogger(__name__)


def problem(status: int, title: str, detail: str) -> tuple[list[tuple[str, str]], bytes]:
    """Return headers and body of the response, after which the connection is to be closed.

    It is logged here, since no line of the service is about it.
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
