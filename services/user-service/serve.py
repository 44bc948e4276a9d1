"""``python serve.py``: serve on ``HOST`` and ``PORT``.

This process starts gunicorn, or granian if ``SERVER=granian``, and stays its parent. It makes the
directory that the workers share for their metrics, and it turns a stop into a drain: readiness
fails, then ``DRAIN_DELAY`` passes, then the server stops. It may be process 1 of a container.
"""

import fcntl
import logging.config
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory, TemporaryFile, gettempdir

from user_service.errors import ConnectionLost
from user_service.observability.logs import logging_config
from user_service.observability.metric_files import files_in, reserve
from user_service.settings import (
    InvalidSettings,
    Launch,
    Settings,
    load_settings,
    log_ignored,
    settings_or_exit,
    share_no_metrics,
    warn_of_open_access,
)

log = logging.getLogger("user_service.serve")

# What both servers keep to. The idle time-out is longer than that of the usual load balancers
# (60 s), so that they close connections first: a request may be on its way when the server does.
KEEPALIVE_SECONDS = 75
# Shorter than the time between SIGTERM and SIGKILL in docker-compose.yml and in Kubernetes.
GRACEFUL_SECONDS = 20
CONNECTIONS = 1000  # of each worker
# The rest of a refused body that is read: closing a connection with unread input resets it, and the
# reset may overtake the answer.
MAX_DISCARDED_BYTES = 1_048_576
# The arguments with which Python runs each server.
COMMANDS = {
    "gunicorn": ("-m", "gunicorn", "-c", "gunicorn.conf.py", "app:create_app()"),
    "granian": ("granian_server.py",),
}

HERE = Path(__file__).resolve().parent
# In memory: every request writes to the metrics, and the root file system may be read-only.
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 -- the directory in it gets a random name
PREFIX = "user-service-"


def main() -> int:
    """Run the server until it ends; return its exit code."""
    signals = catch_signals()  # first: process 1 misses signals without a handler
    settings = settings_or_exit(checked_settings)
    logging.config.dictConfig(logging_config(settings.log_level, settings.log_format))
    log_ignored()
    warn_of_open_access(settings)
    # A connection is an open file; 1,024, a usual soft limit, are fewer than CONNECTIONS need.
    hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with suppress(ValueError, OSError):  # macOS does not let the soft limit be infinite
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))
    with run_directory() as directory:
        drain_file = directory / "draining"
        launch = Launch(launcher_pid=os.getpid(), drain_file=drain_file)
        metrics = prepare_metrics(settings.prometheus_multiproc_dir or directory / "metrics")
        environment = launch.environment(metrics)
        os.chdir(HERE)
        command = [sys.executable, *COMMANDS[settings.server]]
        # A SIGHUP before the server has a handler of its own would end it.
        hang_up = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        server = os.posix_spawn(command[0], command, environment, setpgroup=0)
        signal.signal(signal.SIGHUP, hang_up)
        try:
            return supervise(server, signals, drain_file, settings.drain_delay)
        finally:
            # Workers whose master was killed would keep the port.
            with suppress(ProcessLookupError):
                os.killpg(server, signal.SIGKILL)


def checked_settings() -> Settings:
    """Return the settings, or raise InvalidSettings, also if a driver rejects its URL."""
    # Imported here: gunicorn imports this module before gevent patches what redis-py imports.
    from user_service.cache.redis_url import parse_redis_url  # noqa: PLC0415
    from user_service.database.connection import parameters_of, role_of  # noqa: PLC0415

    settings = load_settings()
    names_role = settings.owner_dsn is not None and settings.migrate_on_start
    for name, parse, url in (
        ("DATABASE_URL", role_of if names_role else parameters_of, settings.database_dsn),
        ("DATABASE_OWNER_URL", parameters_of, settings.owner_dsn),
        ("DATABASE_REPLICA_URL", parameters_of, settings.replica_dsn),
        ("REDIS_URL", parse_redis_url, settings.redis_dsn),
    ):
        try:
            parse(url or "")
        except (ValueError, ConnectionLost) as error:
            raise InvalidSettings(f"{name}: {error}") from None
    return settings


@contextmanager
def run_directory() -> Iterator[Path]:
    """Make a directory in memory, if possible, and remove those of killed launchers.

    A launcher holds the lock of its directory while it runs.
    """
    parent = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else Path(gettempdir())
    for other in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):
            if other.stat().st_uid == os.geteuid():
                with (other / "lock").open() as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    rmtree(other)
    with TemporaryDirectory(prefix=PREFIX, dir=parent, ignore_cleanup_errors=True) as name:
        directory = Path(name)
        # Named when it is locked: another launcher may look at any moment.
        new = directory / "lock.new"
        with new.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            new.rename(directory / "lock")
            yield directory


def catch_signals() -> socket.socket:
    """Catch signals from now on, and return a socket from which to read their numbers.

    Python runs its handlers between two bytecodes. A handler that filled a queue would run after
    the wait for that queue if the signal came just before the wait.
    """
    reading, writing = socket.socketpair()
    writing.settimeout(0)  # the interpreter requires it
    signal.set_wakeup_fd(writing.detach())
    received = [signal.SIGTERM, signal.SIGCHLD]
    # nohup ignores SIGHUP, and a shell ignores SIGINT for background jobs.
    received += [
        each for each in (signal.SIGINT, signal.SIGHUP) if signal.getsignal(each) != signal.SIG_IGN
    ]
    for each in received:
        signal.signal(each, lambda *_: None)
    return reading


def prepare_metrics(directory: Path) -> Path:
    """Make ``directory``, delete metrics of an earlier run, and return its absolute path.

    Exit if it is unusable.
    """
    directory = directory.absolute()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=directory):
            pass
        for file in files_in(directory):
            file.unlink()
    except OSError as error:
        sys.exit(f"user-service: PROMETHEUS_MULTIPROC_DIR: {error.strerror}")
    return directory


def share_metrics(directory: Path | None) -> None:
    """Let this worker share its metrics, before it imports prometheus_client."""
    if directory is not None and not reserve(directory):
        share_no_metrics()


def let_sigterm_end_children() -> None:
    """Let SIGTERM end a child of this process that has not set a handler of its own yet.

    A child inherits the handler of this process, which would not end it. The signal is blocked
    until the child has replaced that handler.
    """
    mask, sigterm = signal.pthread_sigmask, {signal.SIGTERM}

    def begin_child() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        mask(signal.SIG_UNBLOCK, sigterm)

    os.register_at_fork(
        before=lambda: mask(signal.SIG_BLOCK, sigterm),
        after_in_parent=lambda: mask(signal.SIG_UNBLOCK, sigterm),
        after_in_child=begin_child,
    )


def supervise(server: int, signals: socket.socket, drain_file: Path, drain_delay: float) -> int:
    """Pass signals on to ``server``, drain it before it stops, and return its exit code."""
    is_draining = False
    stop_at: float | None = None
    while True:
        # Not 0, which would mean not to wait at all.
        signals.settimeout(None if stop_at is None else max(0.001, stop_at - time.monotonic()))
        try:
            received = signals.recv(1)[0]
        except TimeoutError:
            os.kill(server, signal.SIGTERM)
            stop_at = None
            continue
        if received == signal.SIGHUP:
            reload(server)
        elif received == signal.SIGCHLD:
            code = reap(server)
            if is_draining and code == -signal.SIGTERM:  # it had not yet set its signal handlers
                return 0
            if code is not None:
                return code if code >= 0 else 128 - code  # the latter as a shell does
        elif not is_draining:  # a second signal to stop changes nothing
            log.info("draining: readiness says no, the server stops in %s s", drain_delay)
            with suppress(OSError):  # a full disk does not keep the server from stopping
                drain_file.touch()
            is_draining, stop_at = True, time.monotonic() + drain_delay


def reload(server: int) -> None:
    """Let ``server`` read the settings again, unless they are invalid: it would end."""
    try:
        checked_settings()
    except InvalidSettings as error:
        log.error("not reloading: %s", error)  # noqa: TRY400 -- one line says it all
    else:
        os.kill(server, signal.SIGHUP)


def reap(server: int) -> int | None:
    """Reap the children that have ended; return the exit code of ``server`` if it is among them.

    Process 1 of a container is also the parent of every process whose own parent has ended. A
    negative code is that of a signal.
    """
    code = None
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == server:
                code = os.waitstatus_to_exitcode(ended[1])
    return code


if __name__ == "__main__":
    sys.exit(main())
