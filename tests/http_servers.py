"""HTTP servers whose answers a test defines."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def http_server(
    answer: Callable[[BaseHTTPRequestHandler], None],
    *,
    host: str = "127.0.0.1",
    version: str = "HTTP/1.0",
) -> Iterator[int]:
    """Call ``answer`` for each request to a port of ``host`` during a block, which gets the port.

    With HTTP/1.1 a connection is kept, and each answer needs a Content-Length.
    """

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

    class Handler(BaseHTTPRequestHandler):
        protocol_version = version

        def answer(self) -> None:
            answer(self)

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = answer  # noqa: N815

        def log_message(self, *_: object) -> None: ...

    with Server((host, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()
