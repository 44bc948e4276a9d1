"""What the benchmark serves load from: our service, the practice before it, and the peers.

Each target keeps one contract (``benchmarks/conformance.py``) on the tables that our migrations
make. A peer has an environment of its own under ``benchmarks/.environments``, made from its lock.
"""

import os
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple

from benchmarks import environments
from dev.ports import free_port
from dev.processes import spawn, wait_until

BENCHMARKS = Path(__file__).resolve().parent
SERVICE = BENCHMARKS.parent / "services" / "user-service"

START_SECONDS = 60.0
STOP_SECONDS = 15.0

GUNICORN = ("{bin}/python", "-m", "gunicorn", "-c", "gunicorn.conf.py", "app:create_app()")


class TargetFailed(Exception):
    """A target ended or kept silent instead of serving."""


@dataclass(frozen=True, slots=True)
class Target:
    """One server to measure, made from the lock in its ``folder`` by ``installer``.

    Braces in ``command`` are filled in by `serving`: ``{bin}`` is the folder of its programs,
    ``{port}`` and ``{workers}`` what to serve on and with how many processes.
    """

    name: str
    label: str
    folder: Path
    command: Sequence[str]
    installer: environments.Installer | None = "pip"
    environment: Mapping[str, str] = field(default_factory=dict)
    ready_path: str = "/health/live"

    @property
    def home(self) -> Path:
        """Where its packages are installed; ours are in the project's own environment."""
        return BENCHMARKS / ".environments" / self.name if self.installer else Path(sys.prefix)


class Serving(NamedTuple):
    """A target that answers at ``url``; ``process`` leads the group of all its processes."""

    url: str
    process: subprocess.Popen[bytes]


# The service under each of its servers, by what SERVER says; the first is the default.
SERVERS: Mapping[str, Sequence[str]] = {
    "gunicorn": GUNICORN,
    "granian": ("{bin}/python", "serve.py", "127.0.0.1"),
}


def _ours(server: str, command: Sequence[str]) -> Target:
    """Return the service; its log as JSON, as the peers' is, is all that is not the default."""
    is_default = server == next(iter(SERVERS))
    return Target(
        name="ours" if is_default else f"ours-{server}",
        label="this service" if is_default else f"this service on {server}",
        folder=SERVICE,
        command=command,
        installer=None,
        environment={"LOG_FORMAT": "json", "SERVER": server},
    )


_PEERS = BENCHMARKS / "peers"
_ALL = [
    *(_ours(server, command) for server, command in SERVERS.items()),
    Target(
        "before",
        "before the review",
        BENCHMARKS / "before",
        ("{bin}/python", "-m", "gunicorn", "-w", "{workers}", "-b", "127.0.0.1:{port}", "app:app"),
        ready_path="/health",
    ),
    Target(
        "fastapi",
        "FastAPI, asyncpg",
        _PEERS / "fastapi",
        (
            *("{bin}/python", "-m", "uvicorn", "app:app"),
            *("--port", "{port}", "--workers", "{workers}"),
            *("--loop", "uvloop", "--http", "httptools", "--timeout-keep-alive", "75"),
            *("--no-access-log", "--no-proxy-headers", "--log-level", "warning"),
        ),
    ),
    Target("django", "Django REST Framework", _PEERS / "django", GUNICORN),
    Target("flask-sqlalchemy", "Flask-SQLAlchemy, Smorest", _PEERS / "flask-sqlalchemy", GUNICORN),
    Target("fastify", "Fastify, pg", _PEERS / "fastify", ("{bin}/node", "app.js"), "npm"),
]
TARGETS: dict[str, Target] = {target.name: target for target in _ALL}
OURS = tuple(name for name, target in TARGETS.items() if target.folder == SERVICE)
PEERS = tuple(name for name in TARGETS if name not in (*OURS, "before"))


def prepare(target: Target) -> None:
    """Install what ``target`` needs, once for each state of its lock; say so on standard error."""
    if target.installer:
        environments.ensure(target.label, target.folder, target.installer, target.home)


def is_installed(target: Target) -> bool:
    """Tell whether ``prepare`` would have nothing to do."""
    if target.installer is None:
        return True
    return environments.is_installed(target.folder, target.installer, target.home)


def migrate(database_url: str) -> None:
    """Make the tables that all targets use."""
    command = [sys.executable, "-m", "flask", "--app", "app", "migrate"]
    environment = {**_own_environment(), "DATABASE_URL": database_url}
    subprocess.run(command, cwd=SERVICE, env=environment, stdout=subprocess.DEVNULL, check=True)


@contextmanager
def serving(
    target: Target,
    database_url: str,
    redis_url: str,
    *,
    workers: int = 1,
    cpu: set[int] | None = None,
    log: Path | None = None,
) -> Iterator[Serving]:
    """Serve on a free port of 127.0.0.1, on the cores ``cpu``, and yield as soon as it answers.

    Its output goes to the file ``log``, or nowhere. At the end the whole process group is ended,
    by its id. Raises TargetFailed if it does not come up.
    """
    with ExitStack() as stack:
        port = free_port()
        environment = {
            **_own_environment(),
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "PORT": str(port),
            "WEB_CONCURRENCY": str(workers),
            **target.environment,
        }
        if workers > 1:  # where prometheus_client adds up the counters of all processes
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            environment["PROMETHEUS_MULTIPROC_DIR"] = folder
        output: IO[bytes] = stack.enter_context((log or Path(os.devnull)).open("wb"))
        process = spawn(
            _command(target, port, workers, cpu),
            signal.SIGKILL,
            cwd=target.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        stack.callback(_end, process)
        url = f"http://127.0.0.1:{port}"
        try:
            _wait_for_answer(target, process, url + target.ready_path)
        except TargetFailed as error:
            said = log.read_text("utf-8", "replace")[-2000:] if log else ""
            raise TargetFailed(f"{error}\n{said}".rstrip()) from None
        yield Serving(url, process)


def _command(target: Target, port: int, workers: int, cpu: set[int] | None) -> list[str]:
    words = {"bin": str(target.home / "bin"), "port": str(port), "workers": str(workers)}
    command = [part.format(**words) for part in target.command]
    if cpu is None:
        return command
    return [environments.program("taskset"), "-c", ",".join(map(str, sorted(cpu))), *command]


def _wait_for_answer(target: Target, process: subprocess.Popen[bytes], url: str) -> None:
    def has_answered_or_ended() -> bool:
        return process.poll() is not None or _answers(url)

    if not wait_until(has_answered_or_ended, START_SECONDS):
        raise TargetFailed(f"{target.label} does not answer within {START_SECONDS:.0f} s")
    if process.poll() is not None:
        raise TargetFailed(f"{target.label} ended with exit code {process.returncode}")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:  # noqa: S310 -- our own address
            return bool(response.status == 200)  # noqa: PLR2004
    except OSError:
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask the group to end, then make what is left of it end."""
    for signum in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, signum)
            process.wait(STOP_SECONDS)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def _own_environment() -> dict[str, str]:
    """Return what a process needs of ours, without anything that a target would read."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
