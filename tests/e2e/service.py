"""The service as a process of its own, with production's settings."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from dev.ports import free_port
from tests.faults.harness.processes import children
from tests.waiting import eventually

SERVICE = Path(__file__).resolve().parents[2] / "services" / "user-service"
SERVE = [sys.executable, "serve.py"]
SERVERS = ("gunicorn", "granian")
FLASK = [sys.executable, "-m", "flask", "--app", "app"]
GUNICORN = [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", "app:create_app()"]


@dataclass(frozen=True, slots=True)
class RunningService:
    """A started service: its address, its process and the file that its log goes to.

    The process is that of ``serve.py``, unless gunicorn was started without it.
    """

    url: str
    port: int
    process: subprocess.Popen[bytes]
    log_file: Path
    is_launched: bool = True

    @property
    def master(self) -> int:
        """The parent of the worker processes."""
        if not self.is_launched:
            return self.process.pid
        (server,) = children(self.process.pid)
        return server

    @property
    def workers(self) -> list[int]:
        return children(self.master)

    @property
    def pids(self) -> list[int]:
        return sorted({self.process.pid, self.master, *self.workers})

    @property
    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8")

    def stop(self, timeout: float = 30) -> int:
        """Ask it to stop as Docker and Kubernetes do, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)


Start = Callable[..., AbstractContextManager[RunningService]]  # with a command and settings


def launch(
    log_file: Path, environment: Mapping[str, str], command: list[str] | None = None
) -> RunningService:
    """Start the service with ``environment``, and do not wait for it."""
    metrics = log_file.with_suffix(".metrics")
    metrics.mkdir(exist_ok=True)
    port = free_port()
    own = {"HOST": "127.0.0.1", "PORT": str(port), "PROMETHEUS_MULTIPROC_DIR": str(metrics)}
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            command or SERVE,
            cwd=SERVICE,
            env={**clean_environment(), **own, **environment},
            stdout=log,
            stderr=log,
        )
    return RunningService(f"http://127.0.0.1:{port}", port, process, log_file, command is None)


@contextmanager
def running(
    log_file: Path, environment: Mapping[str, str], command: list[str] | None = None
) -> Iterator[RunningService]:
    """Start the service with ``environment`` and wait until it answers; end it afterwards."""
    service = launch(log_file, environment, command)
    process = service.process
    try:
        eventually(lambda: is_live(service))
        yield service
    finally:
        if process.poll() is None:
            # ``serve.py`` ends by itself after its server, and tidies up.
            servers = children(process.pid) if service.is_launched else []
            for server in servers:
                os.killpg(server, signal.SIGKILL)
            if not servers:
                process.kill()
            process.wait()


def run(command: list[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run ``command`` in the service's folder to its end, whether it succeeds or not."""
    return subprocess.run(
        command,
        cwd=SERVICE,
        env={**clean_environment(), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def is_live(service: RunningService) -> bool:
    """Tell whether it answers; raise if it has ended instead."""
    assert service.process.poll() is None, service.log
    try:
        return httpx.get(f"{service.url}/health/live").status_code == 200
    except httpx.TransportError:
        return False


def clean_environment() -> dict[str, str]:
    """Return what a process needs of ours, without anything that the service would read."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
