"""An environment of its own for each peer, made from its lock: with pip or with npm."""

import hashlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

Installer = Literal["pip", "npm"]

LOCKS: Mapping[Installer, str] = {"pip": "requirements.txt", "npm": "package-lock.json"}


class InstallFailed(Exception):
    """What a target needs could not be installed; the message says why."""


def ensure(label: str, folder: Path, installer: Installer, home: Path) -> None:
    """Install into ``home`` what the lock in ``folder`` names, if that has not been done yet.

    Shows on standard error what happens. Raises InstallFailed.
    """
    if is_installed(folder, installer, home):
        return
    began = time.monotonic()
    print(f"{label}: installing into {home} ...", file=sys.stderr, flush=True)
    if home.exists():
        shutil.rmtree(home)
    home.mkdir(parents=True)
    _INSTALL[installer](folder, home)
    _stamp(home).write_text(_state(folder, installer), "utf-8")
    print(f"{label}: installed in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


def is_installed(folder: Path, installer: Installer, home: Path) -> bool:
    """Tell whether ``home`` holds what the lock in ``folder`` names now."""
    stamp = _stamp(home)
    return stamp.exists() and stamp.read_text("utf-8") == _state(folder, installer)


def _stamp(home: Path) -> Path:
    return home / "installed"


def _state(folder: Path, installer: Installer) -> str:
    """Return what an environment is made of: the lock, and the interpreter that it is for."""
    interpreter = f"{sys.executable} {sys.version}" if installer == "pip" else program("node")
    lock = (folder / LOCKS[installer]).read_bytes()
    return hashlib.sha256(lock + interpreter.encode()).hexdigest()


def _pip(folder: Path, home: Path) -> None:
    _run([sys.executable, "-m", "venv", str(home)])
    pip = [str(home / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install"]
    _run([*pip, "--require-hashes", "-r", str(folder / LOCKS["pip"])])


def _npm(folder: Path, home: Path) -> None:
    for name in ("package.json", LOCKS["npm"], ".npmrc"):
        shutil.copy(folder / name, home)
    _run([program("npm"), "ci", "--prefix", str(home), "--no-audit", "--no-fund"])
    (home / "bin").mkdir()
    (home / "bin" / "node").symlink_to(program("node"))
    # Node looks for packages beside the program that imports them, and in the folders above.
    modules = folder / "node_modules"
    modules.unlink(missing_ok=True)
    modules.symlink_to(home / "node_modules")


_INSTALL: Mapping[Installer, Callable[[Path, Path], None]] = {"pip": _pip, "npm": _npm}


def program(name: str) -> str:
    """Return the path of a program of the system; raise InstallFailed without it."""
    path = shutil.which(name)
    if path is None:
        raise InstallFailed(f"{name} is not installed")
    return path


def _run(command: list[str]) -> None:
    """Run an installer; its own progress goes to standard error, so that output stays clean."""
    try:
        subprocess.run(command, stdout=sys.stderr, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise InstallFailed(str(error)) from error
