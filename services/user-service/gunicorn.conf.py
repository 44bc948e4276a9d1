"""gunicorn's settings, and the hooks that open and close the pools of a worker.

``gunicorn -c gunicorn.conf.py "app:create_app()"`` serves without ``serve.py`` too, but does not
drain before it stops.
"""

import sys
from typing import TYPE_CHECKING

from gevent import monkey
from gunicorn.arbiter import Arbiter
from gunicorn.workers.base import Worker

import gunicorn_worker
from serve import (
    CONNECTIONS,
    GRACEFUL_SECONDS,
    KEEPALIVE_SECONDS,
    let_sigterm_end_children,
    share_metrics,
)
from user_service.observability.logs import logging_config
from user_service.settings import Launch, settings_or_exit

if TYPE_CHECKING:
    from user_service.web.services import Services

launch = Launch()
# With --preload, the application makes its locks before a worker would patch them.
if "--preload" in [*sys.argv, *launch.gunicorn_options.split()]:
    monkey.patch_all()

settings = settings_or_exit()

bind = [f"[{settings.host}]:{settings.port}"]
workers = settings.web_concurrency
worker_class = "gunicorn_worker.Worker"
# REQUEST_TIMEOUT is for the service; as much again is for a client that is slow to send or to read.
gunicorn_worker.Worker.request_seconds = 2 * settings.request_timeout
gunicorn_worker.Worker.launcher_pid = launch.launcher_pid
gunicorn_worker.Worker.cors = bool(settings.cors_origins)
worker_connections = CONNECTIONS
# More than the gateway lets pass (6,400 bytes): twice gunicorn's default, for long query strings.
limit_request_line = 8190
# No peer sets the path or the scheme by a header. X-Forwarded-For belongs to the service itself
# (TRUSTED_PROXIES).
forwarded_allow_ips = ""
keepalive = KEEPALIVE_SECONDS
# Seconds without a sign of life, after which a worker is replaced.
timeout = 30
graceful_timeout = GRACEFUL_SECONDS
control_socket_disable = True
logconfig_dict = logging_config(settings.log_level, settings.log_format)
logger_class = gunicorn_worker.QuietLogger


def on_starting(_server: Arbiter) -> None:
    """Let SIGTERM end a worker that has not set its own handler yet."""
    let_sigterm_end_children()


def post_fork(_server: Arbiter, _worker: Worker) -> None:
    """Let the worker share its metrics."""
    share_metrics(settings.prometheus_multiproc_dir)


def post_worker_init(worker: Worker) -> None:
    """Open the pools: after the fork, since processes cannot share connections."""
    _services(worker).begin(launch.is_draining)


def worker_exit(_server: Arbiter, worker: Worker) -> None:
    """Close the pools, so that PostgreSQL and Redis see the connections end in good order."""
    if hasattr(worker, "wsgi"):  # or the application could not be loaded
        _services(worker).close()


def _services(worker: Worker) -> "Services":
    # Imported here because a worker patches its sockets before it imports what uses them.
    from user_service.web.services import services_of  # noqa: PLC0415

    return services_of(worker.wsgi)
