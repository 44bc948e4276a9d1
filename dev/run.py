"""`make run`: a private PostgreSQL and Valkey, and the service on top of them.

Reads PORT, DATA_DIR, DATABASE_URL and REDIS_URL. Exit codes: the service's own (0 when a signal
stopped it), 1 when something could not start or died, 2 for a wrong value. Every message that
ends the run is one line on stderr, but for the end of a server's log.
"""

import http.client
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from dev.data_dir import DataDir, DataDirInUse, ServerFailed
from dev.lifecycle import Server
from dev.ports import is_free
from dev.processes import spawn, wait_until
from dev.servers import PostgresServer, RedisServer

SERVICE = Path(__file__).resolve().parent.parent / "services" / "user-service"
# Ours alone: the service's own default is every address, as a container needs it.
SERVE = [sys.executable, "serve.py", "127.0.0.1"]
ADDRESSES = "addresses"
WATCH_SECONDS = 0.05
PROBE_SECONDS = 1.0
DRAIN_SECONDS = 3.0  # a service whose launcher was killed may be finishing its requests
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class WrongValue(Exception):
    """An environment variable cannot be used; the message names it and what it takes."""


class Died(Exception):
    """A part ended without being told to; the message says which."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the environment asks for."""

    port: int
    data_dir: Path
    has_postgres: bool
    has_redis: bool

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Self:
        """Take them from the environment, an empty variable being none; raise WrongValue."""
        port = environ.get("PORT") or "5000"
        if not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):  # noqa: PLR2004
            raise WrongValue(f"PORT takes a number from 1 to 65535, not {port!r}")
        data_dir = Path(environ.get("DATA_DIR") or ".data")
        if data_dir.exists() and not data_dir.is_dir():
            raise WrongValue(f"DATA_DIR takes a directory, and {str(data_dir)!r} is none")
        return cls(
            int(port), data_dir, _given("DATABASE_URL", environ), _given("REDIS_URL", environ)
        )


class StopRequest:
    """Remembers the first of the signals that ask us to stop, and hands it on once.

    Both Ctrl-C and SIGTERM become SIGTERM to the service, which then finishes what is in flight;
    more of them change nothing (`make` passes on one that the whole group already got).
    """

    def __init__(self) -> None:
        self.received = False
        self.service: subprocess.Popen[bytes] | None = None
        for signum in STOP_SIGNALS:
            signal.signal(signum, self._receive)
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup sets it
            signal.signal(signal.SIGHUP, self._receive)

    def forward_to(self, service: subprocess.Popen[bytes]) -> None:
        """Pass the request on to `service`, also one that came before there was a service."""
        self.service = service
        if self.received:
            service.terminate()

    def _receive(self, _signum: int, _frame: object) -> None:
        if not self.received and self.service is not None:
            self.service.terminate()
        self.received = True


def main(service: Path = SERVICE) -> int:
    """Run until stopped; return the exit code."""
    try:
        settings = Settings.read(os.environ)
        return run(settings, service, StopRequest())
    except WrongValue as error:
        return _complain(error, 2)
    except (DataDirInUse, Died, ServerFailed, OSError) as error:
        return _complain(error, 1)


def run(settings: Settings, service: Path, stop: StopRequest) -> int:
    """Start what is missing, then the service; take all down in the opposite order."""
    with ExitStack() as stack:
        stack.enter_context(_locked(settings.data_dir))
        if not wait_until(lambda: is_free(settings.port), DRAIN_SECONDS):
            raise ServerFailed(f"port {settings.port} is taken: choose another with PORT=")
        addresses: dict[str, str] = {}
        servers = []
        for name, server in missing_servers(settings).items():
            if stop.received:
                return 0
            _say(f"starting {server.title} ...")
            servers.append(stack.enter_context(server))
            addresses[name] = server.url
        if stop.received:
            return 0
        stack.enter_context(_written(addresses, settings.data_dir / ADDRESSES))
        # No balancer asks for readiness here, so nobody needs time to see it change.
        defaults = {"DRAIN_DELAY": "0", "GIT_COMMIT": commit()}
        environ = {**defaults, **os.environ, "PORT": str(settings.port), **addresses}
        process = spawn(SERVE, signal.SIGTERM, cwd=service, env=environ)
        stack.enter_context(_ended(process))
        stop.forward_to(process)
        return watch(process, servers, settings, stop)


def missing_servers(settings: Settings) -> dict[str, Server]:
    """Return the servers we have to run ourselves, by the variable that tells the service."""
    servers: dict[str, Server] = {}
    if not settings.has_postgres:
        servers["DATABASE_URL"] = PostgresServer(settings.data_dir / "postgres")
    if not settings.has_redis:
        servers["REDIS_URL"] = RedisServer(settings.data_dir / "redis")
    return servers


def watch(
    process: subprocess.Popen[bytes], servers: list[Server], settings: Settings, stop: StopRequest
) -> int:
    """Announce the service when it answers; return its exit code, or raise Died."""
    announced = False
    while (code := process.poll()) is None:
        for server in [each for each in servers if not each.running]:
            if not isinstance(server, RedisServer):
                raise Died(f"{server.title} died; its log is in {settings.data_dir}")
            servers.remove(server)
            _say(f"{server.title} ended; the service goes on without its cache")
        if not announced and not stop.received and is_live(settings.port):
            announced = True
            where = f"http://127.0.0.1:{settings.port}"
            _say(f"user service: {where}  (Ctrl-C stops it; data in {settings.data_dir})")
        time.sleep(WATCH_SECONDS)
    if stop.received:
        # A signal that came before the server was ready for one ends it too, in its own way.
        return 0 if code == -signal.SIGTERM else code if code >= 0 else 128 - code
    raise Died(f"the service died with exit code {code}")


def commit() -> str:
    """Return what git says is checked out here, marked if it was changed since; or "unknown"."""
    command = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        answer = subprocess.run(command, cwd=SERVICE, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return answer.stdout.strip()


def is_live(port: int) -> bool:
    """Ask the service's liveness probe."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PROBE_SECONDS)
    try:
        connection.request("GET", "/health/live")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@contextmanager
def _locked(data_dir: Path) -> Iterator[None]:
    directory = DataDir(data_dir)
    directory.acquire()
    try:
        yield
    finally:
        directory.release()


@contextmanager
def _written(addresses: Mapping[str, str], file: Path) -> Iterator[None]:
    """Keep ``addresses``, passwords and all, in ``file`` as a shell reads them: for make seed."""
    lines = [f"export {name}={shlex.quote(url)}\n" for name, url in addresses.items()]
    file.touch(mode=0o600)
    file.write_text("".join(lines), encoding="utf-8")
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


@contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait()  # its own graceful time-out bounds this
        with suppress(ProcessLookupError):
            # Workers whose master crashed would hold the port for half a minute more.
            os.killpg(process.pid, signal.SIGKILL)


def _given(name: str, environ: Mapping[str, str]) -> bool:
    return bool(environ.get(name) or environ.get(f"{name}_FILE"))


def _say(line: str) -> None:
    print(line, flush=True)


def _complain(error: Exception, code: int) -> int:
    print(f"make run: {error}", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
