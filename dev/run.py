"""`make run`: its own PostgreSQL and Valkey, and the service.

Reads PORT, DATA_DIR, DATABASE_URL or DB_HOST, and REDIS_URL or REDIS_HOST. The exit code is the
service's (0 after a signal), 1 if a process could not start or died, 2 for an invalid value. A
failure is one line on stderr, followed by the end of a server's log if there is one.
"""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from dev.data_dir import DataDir, DataDirInUse, ServerFailed
from dev.lifecycle import Server
from dev.ports import is_free
from dev.probe import is_ok
from dev.processes import spawn, wait_until
from dev.servers import PostgresServer, RedisServer

SERVICE = Path(__file__).resolve().parent.parent / "services" / "user-service"
# This machine only; the service's default is every address, as a container needs.
SERVE = [sys.executable, "serve.py"]
ADDRESSES = "addresses"  # the file that `make seed` reads
WATCH_SECONDS = 0.05
DRAIN_SECONDS = 3.0  # the service of a killed run may still be draining
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class WrongValue(Exception):
    """An environment variable is invalid; the message names it and the valid values."""


class Died(Exception):
    """A process ended unexpectedly; the message names it."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one run."""

    port: int
    data_dir: Path
    has_postgres: bool
    has_redis: bool

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Self:
        """Read the environment, in which an empty variable is unset; raise WrongValue."""
        port = environ.get("PORT") or "5000"
        if not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):  # noqa: PLR2004
            raise WrongValue(f"PORT takes a number from 1 to 65535, not {port!r}")
        data_dir = Path(environ.get("DATA_DIR") or ".data")
        if data_dir.exists() and not data_dir.is_dir():
            raise WrongValue(f"DATA_DIR takes a directory, and {str(data_dir)!r} is none")
        has_postgres = _is_set("DATABASE_URL", environ) or bool(environ.get("DB_HOST"))
        has_redis = _is_set("REDIS_URL", environ) or bool(environ.get("REDIS_HOST"))
        return cls(int(port), data_dir, has_postgres, has_redis)


class StopRequest:
    """The first signal that asks for a stop; the service gets one SIGTERM and drains.

    Later signals change nothing: `make` repeats one that the whole process group already got.
    """

    def __init__(self) -> None:
        self.received = False
        self.service: subprocess.Popen[bytes] | None = None
        for signum in STOP_SIGNALS:
            signal.signal(signum, self._receive)
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup ignores it
            signal.signal(signal.SIGHUP, self._receive)

    def forward_to(self, service: subprocess.Popen[bytes]) -> None:
        """Pass the request on to `service`, also a request from before its start."""
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
        return _fail(error, 2)
    except (DataDirInUse, Died, ServerFailed, OSError) as error:
        return _fail(error, 1)


def run(settings: Settings, service: Path, stop: StopRequest) -> int:
    """Start the missing servers, then the service; stop them in the opposite order."""
    with ExitStack() as stack:
        directory = DataDir(settings.data_dir)
        directory.acquire()
        stack.callback(directory.release)
        if not wait_until(lambda: is_free(settings.port), DRAIN_SECONDS):
            raise ServerFailed(f"port {settings.port} is taken: choose another with PORT=")
        addresses: dict[str, str] = {}
        servers = []
        for name, server in missing_servers(settings).items():
            if stop.received:
                return 0
            print(f"starting {server.title} ...", flush=True)
            servers.append(stack.enter_context(server))
            addresses[name] = server.url
            if isinstance(server, PostgresServer):
                addresses |= {name: server.service_url, "DATABASE_OWNER_URL": server.url}
        if stop.received:
            return 0
        file = _write_addresses(addresses, settings.data_dir / ADDRESSES)
        stack.callback(file.unlink, missing_ok=True)
        # No balancer asks for readiness here, so a stop needs no delay.
        defaults = {"HOST": "127.0.0.1", "DRAIN_DELAY": "0", "GIT_COMMIT": commit()}
        environ = {**defaults, **os.environ, "PORT": str(settings.port), **addresses}
        process = spawn(SERVE, signal.SIGTERM, cwd=service, env=environ)
        stack.callback(_stop, process)
        stop.forward_to(process)
        return watch(process, servers, settings, stop)


def missing_servers(settings: Settings) -> dict[str, Server]:
    """Return the servers that this run starts, by the variable that names them."""
    servers: dict[str, Server] = {}
    if not settings.has_postgres:
        servers["DATABASE_URL"] = PostgresServer(settings.data_dir / "postgres")
    if not settings.has_redis:
        servers["REDIS_URL"] = RedisServer(settings.data_dir / "redis")
    return servers


def watch(
    process: subprocess.Popen[bytes], servers: list[Server], settings: Settings, stop: StopRequest
) -> int:
    """Announce the service once it answers; return its exit code, or raise Died."""
    announced = False
    while (code := process.poll()) is None:
        for server in [each for each in servers if not each.running]:
            if not isinstance(server, RedisServer):
                raise Died(f"{server.title} died; its log is in {settings.data_dir}")
            servers.remove(server)
            print(f"{server.title} ended; the service goes on without its cache", flush=True)
        if not announced and not stop.received and is_ok(settings.port, "/health/live"):
            announced = True
            hint = f"(Ctrl-C stops it; data in {settings.data_dir})"
            print(f"user service: http://127.0.0.1:{settings.port}  {hint}", flush=True)
        time.sleep(WATCH_SECONDS)
    if stop.received:
        # A service that is still starting may die of the signal instead of draining.
        return 0 if code == -signal.SIGTERM else code if code >= 0 else 128 - code
    raise Died(f"the service died with exit code {code}")


def commit() -> str:
    """Return the checked-out commit, marked `-dirty` if files have changed, or "unknown"."""
    command = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        answer = subprocess.run(command, cwd=SERVICE, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return answer.stdout.strip()


def _write_addresses(addresses: Mapping[str, str], file: Path) -> Path:
    """Write the addresses, with their passwords, as a shell script for `make seed`."""
    lines = [f"export {name}={shlex.quote(url)}\n" for name, url in addresses.items()]
    file.touch(mode=0o600)
    file.write_text("".join(lines), encoding="utf-8")
    return file


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
    process.wait()  # bounded by the service's graceful time-out
    with suppress(ProcessLookupError):
        # Workers of a crashed master would hold the port for half a minute.
        os.killpg(process.pid, signal.SIGKILL)


def _is_set(name: str, environ: Mapping[str, str]) -> bool:
    return bool(environ.get(name) or environ.get(f"{name}_FILE"))


def _fail(error: Exception, code: int) -> int:
    print(f"make run: {error}", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
