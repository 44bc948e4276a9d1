"""Programs that some tests drive, such as a browser or Docker, and commands of the documents."""

import os
import re
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


def make(*arguments: str) -> str:
    """Run ``make`` with the virtual environment as it is; return its standard output."""
    return shell("make", "--no-print-directory", "--old-file=.venv/dev.stamp", *arguments)


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run ``command`` in the project's folder, whether it succeeds or not."""
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )


def commands_of(page: str) -> list[str]:
    """Return the blocks of commands on a page of docs/."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
