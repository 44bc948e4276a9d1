"""Targets: the programs under load, and the installation of their packages.

A peer has an environment of its own under ``benchmarks/.environments``, made from its lock.
"""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from tests.issuer import Issuer, ec_key

BENCHMARKS = Path(__file__).resolve().parent
SERVICE = BENCHMARKS.parent / "services" / "user-service"
PEERS = BENCHMARKS / "peers"
LOCKS = {"pip": "requirements.txt", "npm": "package-lock.json"}

GUNICORN = ("{bin}/python", "-m", "gunicorn", "-c", "gunicorn.conf.py", "app:app")


class InstallFailed(Exception):
    """The packages of a target could not be installed; the message names the reason."""


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """One program, started by ``command`` in ``folder`` with its packages in ``home``.

    In ``command``, ``{bin}`` becomes the folder of its programs and ``{port}`` its port. Every
    request of the load has ``headers``. With ``https``, the load uses HTTP/2. ``contract`` tells
    whether the target can be held to the contract, which knows no tokens and reads metrics.
    """

    name: str
    label: str
    folder: Path
    command: Sequence[str]
    installer: Literal["pip", "npm"] | None = "pip"
    environment: Mapping[str, str] = field(default_factory=dict)
    ready_path: str = "/health/live"
    headers: Mapping[str, str] = field(default_factory=dict)
    scheme: Literal["http", "https"] = "http"
    contract: bool = True

    @property
    def home(self) -> Path:
        """The folder of its packages; the service uses the project's own environment."""
        return BENCHMARKS / ".environments" / self.name if self.installer else Path(sys.prefix)

    @property
    def is_installed(self) -> bool:
        """Whether its packages are those of its lock, for the present interpreter."""
        stamp = self.home / "installed"
        return not self.installer or (stamp.exists() and stamp.read_text() == self._lock_hash())

    def install(self) -> None:
        """Install its packages unless that has been done; raise InstallFailed."""
        if self.is_installed:
            return
        print(f"{self.label}: installing into {self.home}", file=sys.stderr, flush=True)
        shutil.rmtree(self.home, ignore_errors=True)
        self.home.mkdir(parents=True)
        try:
            if self.installer == "npm":
                self._install_by_npm()
            else:
                self._install_by_pip()
        except (OSError, subprocess.CalledProcessError) as error:
            raise InstallFailed(f"{self.label}: {error}") from error
        (self.home / "installed").write_text(self._lock_hash())

    def _lock_hash(self) -> str:
        lock = (self.folder / LOCKS[self.installer or "pip"]).read_bytes()
        interpreter = sys.version if self.installer == "pip" else program("node")
        return hashlib.sha256(lock + interpreter.encode()).hexdigest()

    def _install_by_pip(self) -> None:
        _run(sys.executable, "-m", "venv", str(self.home))
        pip = (str(self.home / "bin" / "python"), "-m", "pip", "--disable-pip-version-check")
        _run(*pip, "install", "--require-hashes", "-r", str(self.folder / LOCKS["pip"]))

    def _install_by_npm(self) -> None:
        for name in ("package.json", LOCKS["npm"], ".npmrc"):
            shutil.copy(self.folder / name, self.home)
        _run(program("npm"), "ci", "--prefix", str(self.home), "--no-audit", "--no-fund")
        (self.home / "bin").mkdir()
        (self.home / "bin" / "node").symlink_to(program("node"))
        # Node looks for packages in the folder of the program and in those above it.
        modules = self.folder / "node_modules"
        modules.unlink(missing_ok=True)
        modules.symlink_to(self.home / "node_modules")


# The service has default settings, but for JSON logs.
OURS = Target(
    "ours",
    "this service on gunicorn",
    SERVICE,
    ("{bin}/python", "serve.py"),
    installer=None,
    environment={"LOG_FORMAT": "json", "SERVER": "gunicorn", "DRAIN_DELAY": "0"},
)
OURS_ON_GRANIAN = replace(
    OURS,
    name="ours-granian",
    label="this service on granian",
    environment={**OURS.environment, "SERVER": "granian"},
)
FASTAPI = Target(
    "fastapi",
    "FastAPI (asyncpg)",
    PEERS / "fastapi",
    (
        *("{bin}/python", "-m", "uvicorn", "app:app", "--port", "{port}"),
        *("--loop", "uvloop", "--http", "httptools", "--timeout-keep-alive", "75"),
        *("--no-access-log", "--no-proxy-headers", "--log-level", "warning"),
    ),
)
FLASK_SQLALCHEMY = Target(
    "flask-sqlalchemy", "Flask-SQLAlchemy (Smorest)", PEERS / "flask-sqlalchemy", GUNICORN
)
DJANGO = Target("django", "Django REST Framework", PEERS / "django", GUNICORN)
FASTIFY = Target("fastify", "Fastify (pg)", PEERS / "fastify", ("{bin}/node", "app.js"), "npm")
BEFORE = Target(
    "before",
    "before the review",
    BENCHMARKS / "before",
    ("{bin}/python", "-m", "gunicorn", "-w", "1", "-b", "127.0.0.1:{port}", "app:app"),
    ready_path="/health",
)
EDGE = Target(
    "edge",
    "nginx before this service",
    BENCHMARKS.parent,
    ("{bin}/python", "-m", "benchmarks.edge"),
    installer=None,
    environment={"DRAIN_DELAY": "0"},
    contract=False,
)
EDGE_WITH_TLS = replace(
    EDGE,
    name="edge-tls",
    label="with TLS and HTTP/2",
    environment={**EDGE.environment, "LISTEN": "ssl"},
    scheme="https",
)
# The service with authentication on; ``with_token`` makes it complete.
AUTHENTICATED = replace(OURS, name="ours-token", label="with tokens", contract=False)
ALL_PEERS = (FASTAPI, FLASK_SQLALCHEMY, DJANGO, FASTIFY)
COMPARED = (OURS, OURS_ON_GRANIAN, *ALL_PEERS)
TARGETS = {target.name: target for target in (*COMPARED, BEFORE)}


def with_token(key_set: Path) -> Target:
    """Return AUTHENTICATED with a valid token in each request; its key goes to ``key_set``."""
    issuer = Issuer(ec_key("benchmark"))
    environment = {**AUTHENTICATED.environment, **issuer.settings(key_set)}
    headers = {"Authorization": f"Bearer {issuer.token(exp=10**10)}"}
    return replace(AUTHENTICATED, environment=environment, headers=headers)


def program(name: str) -> str:
    """Return the path of an installed program; raise InstallFailed without it."""
    path = shutil.which(name)
    if path is None:
        raise InstallFailed(f"{name} is not installed")
    return path


def _run(*command: str) -> None:
    """Run an installer with its output on standard error, where progress belongs."""
    subprocess.run(command, stdout=sys.stderr, check=True)
