"""Names to addresses, within a time: the resolver of the system knows no deadline."""

import ipaddress
import socket
import threading
from concurrent.futures import Future, ThreadPoolExecutor

# The resolver cannot be stopped, only no longer be waited for: these threads may hang in it while
# its servers are away. They are started by the first name, hence after any fork.
_threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="resolve")


def addresses(host: str, timeout: float) -> list[str]:
    """Return the addresses of ``host``; raise OSError if there are none within ``timeout`` s."""
    try:
        return [str(ipaddress.ip_address(host))]
    except ValueError:
        pass
    found: Future[list[str]] = _threads.submit(_look_up, host)
    try:
        return found.result(min(timeout, threading.TIMEOUT_MAX))
    except TimeoutError:
        found.cancel()
        raise OSError(f"the name {host!r} was not resolved within {timeout:.2f} s") from None


def _look_up(host: str) -> list[str]:
    try:
        infos = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except UnicodeError:  # an empty label, or one that is too long
        raise OSError(f"{host!r} is not a name") from None
    return list(dict.fromkeys(str(info[4][0]) for info in infos))
