"""``python granian_server.py``: the service under granian, started by ``serve.py``.

granian does not limit the time of a slow client, and a request whose body is sent slowly holds one
of its threads. It belongs behind a gateway that buffers requests (docs/servers.md).
"""

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from ipaddress import IPv6Address
from typing import TYPE_CHECKING
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from granian import Granian
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.log import LogLevels

from serve import (
    CONNECTIONS,
    GRACEFUL_SECONDS,
    KEEPALIVE_SECONDS,
    MAX_DISCARDED_BYTES,
    let_sigterm_end_children,
    share_metrics,
)
from server_problems import PROBLEMS, is_host, server_problem
from user_service.observability.logs import logging_config
from user_service.settings import Launch, Settings, settings_or_exit

if TYPE_CHECKING:
    from _typeshed import OptExcInfo

log = logging.getLogger("user_service.granian")

# Threads of a worker beyond one for each connection of its pool: they serve cached pages and
# probes while the others wait for PostgreSQL.
SPARE_THREADS = 6
MAX_HEADER_BYTES = 32_768  # of a request line and its header fields together


def main() -> None:
    """Serve until told to stop."""
    settings = settings_or_exit()
    end_with_parent(Launch().launcher_pid or os.getppid())
    require_free_port(settings)
    let_sigterm_end_children()
    server = Granian(
        "granian_server:create_worker",
        factory=True,
        address=str(settings.host),
        port=settings.port,
        interface=Interfaces.WSGI,
        http=HTTPModes.http1,
        websockets=False,
        workers=settings.web_concurrency,
        blocking_threads=settings.db_pool_size + SPARE_THREADS,
        backpressure=CONNECTIONS,
        workers_kill_timeout=GRACEFUL_SECONDS,
        respawn_failed_workers=True,
        http1_settings=HTTP1Settings(
            # Also the time that a connection may be idle.
            header_read_timeout=KEEPALIVE_SECONDS * 1000,
            max_buffer_size=MAX_HEADER_BYTES,
        ),
        log_level=LogLevels(settings.log_level.lower()),
        log_dictconfig=logging_config(settings.log_level, settings.log_format),
    )
    log.warning("granian belongs behind a gateway that buffers: slow bodies hold its threads")
    server.serve()


def require_free_port(settings: Settings) -> None:
    """End the process if another one listens: granian would share the port with another granian."""
    address = str(settings.host), settings.port
    family = socket.AF_INET6 if isinstance(settings.host, IPv6Address) else socket.AF_INET
    is_dual = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
    try:
        socket.create_server(address, family=family, dualstack_ipv6=is_dual).close()
    except OSError as error:
        sys.exit(f"user-service: PORT: cannot listen on {settings.port}: {error.strerror}")


def create_worker() -> WSGIApplication:
    """Return the application of a worker process, with its pools open; granian calls this there."""
    settings = settings_or_exit()
    share_metrics(settings.prometheus_multiproc_dir)
    from app import create_app  # noqa: PLC0415 -- the main process needs none of it
    from user_service.web.services import services_of  # noqa: PLC0415

    end_with_parent(os.getppid())
    launch = Launch()
    app = create_app()
    services = services_of(app)
    services.begin(launch.is_draining)
    at_end_of_main_thread(services.close)
    return GuardedApp(app, launch.is_draining, cors=bool(settings.cors_origins))


class GuardedApp:
    """A WSGI application that refuses what granian cannot serve safely, and drains connections."""

    def __init__(
        self, app: WSGIApplication, is_draining: Callable[[], bool], *, cors: bool = False
    ) -> None:
        self._app = app
        self._is_draining = is_draining
        self._cors = cors

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Return the whole response in one part, so that no thread waits for a slow reader."""
        if status := refusal(environ):
            discard_rest(environ)
            headers, body = server_problem(status, cors=self._cors)
            start_response(f"{status} {PROBLEMS[status][0]}", headers)
            return [body]

        def start(
            status: str, headers: list[tuple[str, str]], exc_info: "OptExcInfo | None" = None
        ) -> Callable[[bytes], object]:
            if self._is_draining():  # RFC 9112, section 9.6
                headers = [*headers, ("Connection", "close")]
            return start_response(status, headers, exc_info)

        parts = self._app(environ, start)
        try:
            body = b"".join(parts)
        finally:
            if hasattr(parts, "close"):
                parts.close()
        discard_rest(environ)
        return [body]


def refusal(environ: WSGIEnvironment) -> int | None:
    """Return the status for a request that must not be executed, or None."""
    if "HTTP_TRANSFER_ENCODING" in environ:  # granian shows a body that broke off as complete
        return 411
    # Empty if there is none; repeated ones are joined by commas (RFC 9112, section 3.2).
    may_be_missing = environ["SERVER_PROTOCOL"] != "HTTP/1.1"
    has_host = is_host(environ["HTTP_HOST"], may_be_missing=may_be_missing)
    return None if has_host and environ["REQUEST_METHOD"].isupper() else 400


def discard_rest(environ: WSGIEnvironment) -> None:
    """Read the rest of a body that the application has not read, unless that is too much."""
    length = int(environ.get("CONTENT_LENGTH") or 0)
    # A client that waits for 100 Continue has sent nothing yet.
    if 0 < length <= MAX_DISCARDED_BYTES and "HTTP_EXPECT" not in environ:
        environ["wsgi.input"].read()


def end_with_parent(parent: int) -> None:
    """Stop this process, as SIGTERM does, when ``parent`` is no longer its parent."""

    def watch() -> None:
        while True:
            time.sleep(1)
            if os.getppid() != parent:
                os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def at_end_of_main_thread(close: Callable[[], None]) -> None:
    """Call ``close`` when the main thread ends; worker processes do not run ``atexit``."""

    def wait() -> None:
        threading.main_thread().join()
        close()

    threading.Thread(target=wait).start()


if __name__ == "__main__":
    main()
