"""Stopping without failing a request: first readiness, then new connections, then the rest.

A server begins a stop by telling its workers to end. The last of them to close the listening
socket makes the kernel reset every connection that it had already established for it. Here the
master says "not ready" first, so that balancers stop sending, and then lets the kernel ignore
requests for new connections, until the workers have accepted those that were there.
"""

import ctypes
import functools
import logging
import mmap
import socket
import struct
import time
from collections.abc import Iterable

log = logging.getLogger(__name__)

# In seconds: what a worker needs to accept the connections that are established already.
SETTLE = 0.2

_NOT_READY, _CLOSING = 1, 2

_SO_ATTACH_FILTER = 26  # Linux; Python's socket module does not name it
# A classic BPF program over a TCP segment: load the flags, drop what has SYN, keep the rest.
_DROP_SYN = ((0x30, 0, 0, 13), (0x45, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))


class Drain:
    """Whether the server drains: set by the master, seen by workers that it forks afterwards."""

    def __init__(self, delay: float) -> None:
        """``delay`` is how long readiness says no before new connections are ignored, in s."""
        self._delay = delay
        self._shared = mmap.mmap(-1, 1)

    def is_on(self) -> bool:
        """Tell whether the master has begun to stop."""
        return self._shared[0] != 0

    def is_closing(self) -> bool:
        """Tell whether the answer to each request is to be the last on its connection."""
        return self._shared[0] == _CLOSING

    def run(self, listening: Iterable[socket.socket]) -> None:
        """Begin to drain; return when the workers may be told to end."""
        self._shared[0] = _NOT_READY
        time.sleep(self._delay)
        self._shared[0] = _CLOSING
        if not all(ignore_new_connections(each) for each in listening):
            log.info("new connections are taken until the end: no filter is allowed")
        time.sleep(SETTLE)


@functools.cache
def drain_after(delay: float) -> Drain:
    """Return the same for as long as the master lives, however often it reloads its settings."""
    return Drain(delay)


def ignore_new_connections(listening: socket.socket) -> bool:
    """Let a client that connects from now on try again until nobody listens: then it is refused.

    Return False where the system has no such filters, or has them for CAP_NET_ADMIN only, as some
    kernels do: new connections then go on being taken. Behind a balancer that goes by readiness, or
    in Kubernetes after preStop, none come by then, so no container is given that capability.
    """
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *op) for op in _DROP_SYN))
    try:
        listening.setsockopt(
            socket.SOL_SOCKET,
            _SO_ATTACH_FILTER,
            struct.pack("HL", len(_DROP_SYN), ctypes.addressof(program)),
        )
    except OSError:
        return False
    return True
