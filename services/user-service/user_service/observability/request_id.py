"""The request id: the client's or a new one, on every log line and response of a request."""

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

# Line breaks, terminal codes and long values must not reach the log.
_ACCEPTED = re.compile(r"[A-Za-z0-9_-]{1,64}")

_current: ContextVar[str] = ContextVar("request_id", default="-")
# Returns the id of the current request; "-" outside a request.
current = _current.get


@contextmanager
def of_request(offered: str | None) -> Iterator[str]:
    """Enter a request and return its id: ``offered`` if it is well-formed, or a new one."""
    request_id = offered if offered and _ACCEPTED.fullmatch(offered) else uuid.uuid4().hex
    token = _current.set(request_id)
    try:
        yield request_id
    finally:
        _current.reset(token)
