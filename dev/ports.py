"""Free TCP ports of 127.0.0.1."""

import random
import socket

from dev.data_dir import ServerFailed

# Below the range for outgoing connections. Inside of it, a client that retries a port while its
# server is down may get that port itself, connect to itself, and block the restart.
PORTS = range(20_000, 30_000)


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 without a listener."""
    for port in random.sample(PORTS, 100):
        if is_free(port):
            return port
    raise ServerFailed(f"no free port among {PORTS.start} to {PORTS.stop - 1}")


def is_free(port: int) -> bool:
    """Return whether a server could listen on this port of 127.0.0.1.

    Raise ServerFailed if this user is not permitted to.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
        try:
            probe.bind(("127.0.0.1", port))
        except PermissionError:
            raise ServerFailed(
                f"port {port} is not permitted: ports below 1024 need root"
            ) from None
        except OSError:
            return False
    return True
