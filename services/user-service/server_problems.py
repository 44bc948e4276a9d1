"""Problems about requests that never reach Flask: the server itself has to answer them."""

import uuid

import orjson

from user_service.web import security


def problem(status: int, title: str, detail: str) -> tuple[list[tuple[str, str]], bytes]:
    """Return headers and body of the response, after which the connection is to be closed."""
    request_id = uuid.uuid4().hex
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
        *security.HEADERS,
    ]
    return headers, body
