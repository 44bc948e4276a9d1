"""Problems for requests that a server refuses before they reach the application."""

import logging
import re

from user_service.observability import request_id

log = logging.getLogger(__name__)

# Title and detail of each status.
PROBLEMS = {
    400: ("Bad Request", "The request is not valid HTTP"),
    411: ("Length Required", "Send the body with a Content-Length"),
    414: ("URI Too Long", "The request line is too long"),
    417: ("Expectation Failed", "The only expectation that is supported is 100-continue"),
    431: ("Request Header Fields Too Large", "The header is too large"),
    500: ("Internal Server Error", "An unexpected error occurred"),
    501: ("Not Implemented", "The only transfer coding that is supported is chunked"),
}

# RFC 3986, section 3.2.2; but a comma stands between the Hosts of a request that has two.
_HOST = re.compile(r"(?:[\w.~!$&'()*+;=%-]+|\[[\w.:%~-]+\])(?::[0-9]*)?", re.ASCII)


def is_host(value: str, *, may_be_missing: bool) -> bool:
    """Tell whether ``value``, empty if it is missing, may be the Host of a request."""
    return _HOST.fullmatch(value) is not None or (may_be_missing and not value)


def server_problem(status: int, *, cors: bool) -> tuple[list[tuple[str, str]], bytes]:
    """Return headers and body of the response, after which the connection is to be closed.

    With ``cors``, scripts of every origin may read it. The line in the log is the only one about
    such a request.
    """
    # Imported here: gevent must patch the standard library before Flask is imported.
    from user_service.web.policies import security_headers  # noqa: PLC0415
    from user_service.web.policies.cors import ANY_ORIGIN  # noqa: PLC0415
    from user_service.web.problems import Problem  # noqa: PLC0415

    title, detail = PROBLEMS[status]
    with request_id.of_request(None) as identifier:
        reply = Problem(status, title, detail).reply()
        log.warning("refused by the server: %d %s", status, detail)
    headers = [
        *reply.headers.items(),
        ("Connection", "close"),
        ("Content-Length", str(len(reply.body))),
        ("X-Request-ID", identifier),
        *(ANY_ORIGIN if cors else ()),
    ]
    return security_headers.added_to(headers), reply.body
