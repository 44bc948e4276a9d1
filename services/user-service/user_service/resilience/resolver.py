"""Name resolution with a time-out, which the system's resolver does not have."""

import ipaddress
import socket
import threading
from concurrent.futures import Future
from contextlib import suppress
from functools import partial

from user_service.resilience.background import in_background

# The last lookup of each name. One under way cannot be stopped, and may hang for as long as the
# name servers are away; since each name has a thread of its own, it delays no other name.
_lookups: dict[str, Future[list[str]]] = {}
_lock = threading.Lock()


def addresses(host: str, timeout: float) -> list[str]:
    """Return the addresses of ``host``; raise OSError if none is found within ``timeout`` s."""
    with suppress(ValueError):
        return [str(ipaddress.ip_address(host))]
    with _lock:
        lookup = _lookups.get(host)
        if lookup is None or lookup.done():
            lookup = _lookups[host] = in_background(partial(_look_up, host))
    try:
        return lookup.result(min(timeout, threading.TIMEOUT_MAX))
    except TimeoutError:
        raise OSError(f"the name {host!r} was not resolved within {timeout:.2f} s") from None


def _look_up(host: str) -> list[str]:
    try:
        host.encode("idna")  # or gevent's thread would log the traceback of this error
        infos = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except UnicodeError:  # a label that is empty or too long
        raise OSError(f"{host!r} is not a name") from None
    return list(dict.fromkeys(str(info[4][0]) for info in infos))
