"""The service under granian: HTTP in Rust, one process and some threads for each worker.

``serve.py`` runs it where ``SERVER=granian`` asks for it, with the settings that gunicorn gets from
``gunicorn.conf.py``. Nothing in ``user_service`` knows of it.
"""

import multiprocessing
import os
import signal
import socket
import threading
import time
from typing import Any

from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.net import SocketHolder  # type: ignore[attr-defined]
from granian.server import mp

from drain import Drain
from granian_requests import Requests
from metrics_directory import metrics_directory
from server_limits import CONNECTIONS, GRACEFUL_TIMEOUT, KEEPALIVE, LINGER
from user_service.observability.logs import logging_config
from user_service.settings import Settings, share_metrics_in

# Threads that run requests, beyond one for each connection of the pool: a thread without a
# connection serves pages from the cache and probes, and has something to do while others wait for
# PostgreSQL. More of them only contend for the interpreter. Pool of 10, 50 clients, one core that
# others used too, in turn: with 8 threads 1,490 cached pages/s and 1,420 users/s, with 16 1,450
# and 1,290, with 32 960 and 950, with 64 780 and 900. With 8, a frozen database would stop all.
SPARE_THREADS = 6
# Bytes of a request line and its header fields together.
MAX_HEADER = 32_768


class Server(mp.MPServer):
    """granian with one listening socket for all workers, which drains before it stops."""

    def __init__(self, settings: Settings, host: str) -> None:
        self._settings = settings
        self._created: Any = None
        self._threads = settings.db_pool_size + SPARE_THREADS
        self._drain = Drain(settings.drain_delay)
        self._metrics_directory = metrics_directory(settings.prometheus_multiproc_dir)
        super().__init__(
            "app:create_app",
            address=host,
            port=settings.port,
            interface=Interfaces.WSGI,
            http=HTTPModes.http1,
            websockets=False,
            workers=settings.web_concurrency,
            blocking_threads=self._threads,
            backpressure=CONNECTIONS,
            workers_kill_timeout=GRACEFUL_TIMEOUT,
            respawn_failed_workers=True,
            http1_settings=HTTP1Settings(
                # Until the next header is there; who trickles one costs no thread meanwhile.
                header_read_timeout=KEEPALIVE * 1000,
                max_buffer_size=MAX_HEADER,
            ),
            log_level=LogLevels(settings.log_level.lower()),
            log_dictconfig=logging_config(settings.log_level, settings.log_format),
        )

    def run(self) -> None:
        """Serve until told to stop by SIGTERM or SIGINT; raise SystemExit if workers cannot."""
        # What is handed to the workers, listening socket and drain, is theirs by the fork.
        multiprocessing.set_start_method("fork")
        self._metrics_directory.make()
        share_metrics_in(self._metrics_directory.path)
        try:
            # Not MPServer's own, which only warns of more threads than there are processors.
            super(mp.MPServer, self).serve(self._serve_as_worker, self._requests, wrap_loader=False)
        finally:
            self._metrics_directory.remove()

    def shutdown(self, exit_code: int = 0) -> None:
        """Drain, then end the workers."""
        self._drain.run([self._listening])
        time.sleep(LINGER)
        super().shutdown(exit_code)  # type: ignore[no-untyped-call]

    def _init_shared_socket(self) -> None:
        # On Linux, granian gives each worker a socket of its own, and the kernel resets what waits
        # at that of a worker that ends; here they share one that outlasts them.
        self._listening = socket.create_server(
            (self.bind_addr, self.bind_port), backlog=self.backlog
        )
        self._close_who_does_not_read(self._listening)
        self._ssp = None
        self._shd = SocketHolder(  # type: ignore[assignment, call-arg]
            self._listening.fileno(), uds=False, backlog=self.backlog
        )
        self._sso = None

    def _close_who_does_not_read(self, listening: socket.socket) -> None:
        """Have the kernel close connections (they inherit it) that take nothing for so long."""
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
            milliseconds = round(2000 * self._settings.request_timeout)
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)

    def _respawn_workers(self, workers: list[int], *arguments: Any, **options: Any) -> None:
        """Replace ``workers``; granian would end itself if one of them was killed again soon."""
        failed = {number for number in workers if (self.wrks[number].inner.exitcode or 0) > 0}
        super()._respawn_workers(workers, *arguments, **options)
        self.respawned_wrks = {
            number: began for number, began in self.respawned_wrks.items() if number in failed
        }

    def _serve_as_worker(self, *arguments: Any) -> None:
        # Until granian sets its own: the master's, inherited, would do nothing here.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
        # Not in the master, which needs none of it.
        app = self._app()
        from user_service.web.services import services_of  # noqa: PLC0415

        services = services_of(app)
        services.begin(self._drain.is_on)
        try:
            self._spawn_wsgi_worker(*arguments)
        finally:
            services.close()

    def _app(self) -> Any:
        if self._created is None:
            from app import create_app  # noqa: PLC0415

            self._created = create_app()
        return self._created

    def _requests(self) -> Requests:
        app = self._app()
        from user_service.web.requests.validation import MAX_BODY_BYTES  # noqa: PLC0415
        from user_service.web.services import services_of  # noqa: PLC0415

        metrics = services_of(app).metrics.http
        return Requests(
            app,
            is_closing=self._drain.is_closing,
            threads=self._threads,
            body_seconds=2 * self._settings.request_timeout,
            max_body_bytes=MAX_BODY_BYTES,
            count_refused=lambda method, status: metrics.observe(None, method, status, 0),
        )


def _end_with(master: int) -> None:
    """Stop this worker when its master is gone, as gunicorn's do."""
    while os.getppid() == master:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


# granian has no setting for this: its own knows no time-out for bodies, and sends what Flask
# returns in pieces, with a thread waiting until the client has taken them.
mp._wsgi_call_wrap = lambda requests, *_: requests  # type: ignore[attr-defined]  # noqa: SLF001
