"""Programs of the system that some tests drive: a browser, Docker, PgBouncer and the like."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def program(name: str) -> str:
    """Return the path of ``name``; skip the test without it, or fail it where all must be there."""
    folders = [os.environ["PATH"], "/usr/sbin", *Path("/usr/lib/postgresql").glob("*/bin")]
    path = shutil.which(name, path=os.pathsep.join(map(str, folders)))
    if path is not None:
        return path
    if os.environ.get("TEST_PROGRAMS") == "required":
        pytest.fail(f"{name} is not installed, and TEST_PROGRAMS=required")
    pytest.skip(f"{name} is not installed")


def shell(*command: str) -> str:
    """Run ``command`` in the project's folder; return its standard output, fail if it fails."""
    ended = run(*command)
    assert ended.returncode == 0, f"{' '.join(command)}: {ended.stdout}{ended.stderr}"
    return ended.stdout


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run ``command`` in the project's folder, whether it succeeds or not."""
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
