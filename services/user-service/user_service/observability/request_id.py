"""The request id: the client's or a new one, on every log line and response of a request."""

import re
import uuid
from contextvars import ContextVar

# Line breaks, terminal codes and long values must not reach the log.
_ACCEPTED = re.compile(r"[A-Za-z0-9_-]{1,64}")

_current: ContextVar[str] = ContextVar("request_id", default="-")
# Returns the id of the current request; "-" outside a request.
current = _current.get


def begin(offered: str | None) -> str:
    """Return the id of the request that begins: ``offered`` if it is well-formed, or a new one."""
    request_id = offered if offered and _ACCEPTED.fullmatch(offered) else uuid.uuid4().hex
    _current.set(request_id)
    return request_id


def clear() -> None:
    """Forget the id at the end of the request."""
    _current.set("-")
