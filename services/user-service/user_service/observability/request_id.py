"""The request id: on every log line and response of a request, from the client or made here."""

import random
import re
from contextvars import ContextVar

_ACCEPTED = re.compile(r"[A-Za-z0-9_-]{1,64}")

_current: ContextVar[str] = ContextVar("request_id", default="-")


def begin(offered: str | None) -> str:
    """Make ``offered`` the id of the request at hand, or a new one if it is not of our form.

    The form keeps line breaks, terminal codes and lengthy values out of the logs.
    """
    accepted = offered is not None and _ACCEPTED.fullmatch(offered)
    # It has to be unlike others, and need not be secret: a secret would take a system call.
    request_id = offered if offered and accepted else f"{random.getrandbits(128):032x}"
    _current.set(request_id)
    return request_id


def current() -> str:
    """Return the id of the request at hand; ``-`` outside of one."""
    return _current.get()


def clear() -> None:
    """Forget the id: the request is over."""
    _current.set("-")
