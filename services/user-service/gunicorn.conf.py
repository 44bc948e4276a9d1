"""gunicorn's settings: worker model, time-outs, and the hooks that open and close the pools."""

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from gunicorn.arbiter import Arbiter
from gunicorn.workers.base import Worker

import gunicorn_worker
from drain import drain_after
from metrics_directory import metrics_directory
from server_limits import CONNECTIONS, GRACEFUL_TIMEOUT, KEEPALIVE
from user_service.observability.logs import logging_config
from user_service.settings import settings_or_exit

if TYPE_CHECKING:
    from flask import Flask

    from user_service.web.services import Services

settings = settings_or_exit()

bind = [f"0.0.0.0:{settings.port}"]
workers = settings.web_concurrency
worker_class = "gunicorn_worker.Worker"
# REQUEST_TIMEOUT is for our part; as much again for a client that is slow to send or to read.
gunicorn_worker.Worker.request_seconds = 2 * settings.request_timeout
worker_connections = CONNECTIONS
# More than the gateway lets pass (6,400 bytes): twice gunicorn's default, for long query strings.
limit_request_line = 8190
# No peer, 127.0.0.1 neither, says by headers what the path or the scheme is: SCRIPT_NAME made 500s.
# X-Forwarded-For is another matter, and the service's own (TRUSTED_PROXIES).
forwarded_allow_ips = ""
keepalive = KEEPALIVE
# A worker that has not said for so long that it lives is replaced.
timeout = 30
graceful_timeout = GRACEFUL_TIMEOUT
control_socket_disable = True
logconfig_dict = logging_config(settings.log_level, settings.log_format)
accesslog = None  # one line a request is written by the service itself
logger_class = gunicorn_worker.ErrorLogger

directory = metrics_directory(settings.prometheus_multiproc_dir)
raw_env = [f"PROMETHEUS_MULTIPROC_DIR={directory.path}"]
drain = drain_after(settings.drain_delay)


def on_starting(_server: Arbiter) -> None:
    """Let all metrics begin with 0."""
    directory.make()


def when_ready(server: Arbiter) -> None:
    """Let the server drain before it stops gracefully; gunicorn has no hook for this."""
    stop: Callable[[bool], None] = server.stop

    def is_shared() -> bool:
        # Whoever else has the listening sockets (a new master after USR2, systemd) goes on with
        # them; what is ignored on ours is ignored on theirs.
        return bool(server.reexec_pid or server.master_pid or server.systemd)

    def drain_and_stop(graceful: bool = True) -> None:  # noqa: FBT001, FBT002 -- gunicorn's
        if graceful and server.LISTENERS:
            drain.run([] if is_shared() else [each.sock for each in server.LISTENERS])
        stop(graceful)

    server.stop = drain_and_stop


def post_worker_init(worker: Worker) -> None:
    """Open the pools: after the fork, since connections cannot be shared between processes."""
    _services(worker).begin(drain.is_on)


def pre_request(_worker: Worker, _request: object) -> None:
    """Replace gunicorn's own hook, which writes to the debug log: the service has its own line."""


def worker_exit(_server: Arbiter, worker: Worker) -> None:
    """Close the pools, so that PostgreSQL and Redis see the connections end in good order."""
    _services(worker).close()


def on_exit(_server: Arbiter) -> None:
    """Leave nothing behind."""
    directory.remove()


def _services(worker: Worker) -> "Services":
    # Imported this late because the worker patches the sockets of what is imported after its fork.
    from user_service.web.services import services_of  # noqa: PLC0415

    return services_of(cast("Flask", worker.wsgi))
