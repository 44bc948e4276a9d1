"""The service under granian: HTTP in Rust, one process and some threads for each worker.

``serve.py`` runs it where ``SERVER=granian`` asks for it, with the settings that gunicorn gets from
``gunicorn.conf.py``. Nothing in ``user_service`` knows of it.
"""

import socket
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.net import SocketHolder  # type: ignore[attr-defined]
from granian.server.mp import MPServer

from drain import Drain
from user_service.observability.logs import logging_config
from user_service.settings import Settings
from user_service.web.services import services_of

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

# Seconds in which a client on an open connection still gets an answer once the stop has begun,
# with "Connection: close" in it (RFC 9112, section 9.6).
LINGER = 1.0


class Server(MPServer):
    """granian with one listening socket for all workers, which drains before it stops."""

    def __init__(self, settings: Settings, host: str) -> None:
        self._drain = Drain(settings.drain_delay)
        super().__init__(
            "app:app",
            address=host,
            port=settings.port,
            interface=Interfaces.WSGI,
            http=HTTPModes.http1,
            workers=settings.web_concurrency,
            blocking_threads=settings.threads,
            backpressure=settings.threads,
            workers_kill_timeout=20,
            respawn_failed_workers=True,
            http1_settings=HTTP1Settings(header_read_timeout=10_000, max_buffer_size=16_384),
            log_dictconfig=logging_config(settings.log_level, settings.log_format),
        )

    def run(self) -> None:
        """Serve until told to stop by SIGTERM or SIGINT."""
        self.serve(self._serve_as_worker, self._load, wrap_loader=False)

    def _init_shared_socket(self) -> None:
        # On Linux, granian gives each worker a socket of its own, and the kernel resets what waits
        # at that of a worker that ends; here they share one that outlasts them.
        self._listening = socket.create_server(
            (self.bind_addr, self.bind_port), backlog=self.backlog
        )
        self._ssp = None
        self._shd = SocketHolder(  # type: ignore[assignment]
            self._listening.fileno(), uds=False, backlog=self.backlog
        )
        self._sso = None

    def shutdown(self, exit_code: int = 0) -> None:
        """Drain, then end the workers."""
        self._drain.run([self._listening])
        time.sleep(LINGER)
        super().shutdown(exit_code)  # type: ignore[no-untyped-call]

    def _load(self) -> "WSGIApplication":
        """Return the application, its pools open: in the worker, after the fork."""
        # Not in the master, which needs none of it.
        from app import app  # noqa: PLC0415

        self._app = app
        services_of(self._app).begin(self._drain.is_on)
        return self._closing_connections_when_draining

    def _serve_as_worker(self, *arguments: Any) -> None:  # noqa: ANN401 -- granian's own
        try:
            self._spawn_wsgi_worker(*arguments)
        finally:
            services_of(self._app).close()

    def _closing_connections_when_draining(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        if not self._drain.is_on():
            return self._app(environ, start_response)

        def closing(
            status: str,
            headers: list[tuple[str, str]],
            *error: Any,  # noqa: ANN401 -- WSGI's own
        ) -> Callable[[bytes], object]:
            return start_response(status, [*headers, ("Connection", "close")], *error)

        return self._app(environ, closing)
