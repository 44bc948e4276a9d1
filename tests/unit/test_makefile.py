"""The Makefile, with stand-ins for the interpreter and the service's commands."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.programs import ROOT

RUNNING = "postgresql://of-make-run/users"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder whose path has a space, with the addresses of a running ``make run``."""
    folder = tmp_path / "a b"
    (folder / "services" / "user-service").mkdir(parents=True)
    (folder / ".data").mkdir()
    addresses = f"export DATABASE_URL={RUNNING}\nexport REDIS_URL='redis://of-make-run'\n"
    (folder / ".data" / "addresses").write_text(addresses)
    shutil.copy(ROOT / "Makefile", folder)
    (folder / "requirements-run.txt").touch()
    return folder


def script(path: Path, commands: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{commands}\n")
    path.chmod(0o755)


def make(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], **variables}
    return subprocess.run(
        ["make", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("command", "asked"), [("migrate", "migrate"), ("seed", "users seed 100000")]
)
@pytest.mark.parametrize(
    ("variables", "database"),
    [
        ({}, RUNNING),
        ({"DATABASE_URL": "postgresql://named/users"}, "postgresql://named/users"),
        ({"DB_HOST": "named"}, ""),
        ({"DATA_DIR": "elsewhere"}, ""),
    ],
)
def test_commands_use_the_database_that_is_named_or_that_of_make_run(
    checkout: Path, command: str, asked: str, variables: dict[str, str], database: str
) -> None:
    script(checkout / ".venv" / "bin" / "python", "exit 0")
    script(checkout / ".venv" / "bin" / "flask", 'echo "$DATABASE_URL $REDIS_URL: $*"')
    (checkout / ".venv" / "run.stamp").touch()
    ended = make(checkout, command, **variables)
    redis = "" if "DATA_DIR" in variables else "redis://of-make-run"
    assert ended.stdout == f"{database} {redis}: --app app {asked}\n", ended.stderr


def test_virtual_environment_without_pip_is_not_kept(checkout: Path) -> None:
    """As Debian's Python makes it without the package python3-venv."""
    here = 'mkdir -p .venv/bin && cp "$0" .venv/bin/python'
    script(checkout / "python3", f'[ "$2" != venv ] || {{ {here}; exit 1; }}')
    assert make(checkout, "migrate", "PYTHON=./python3").returncode != 0
    assert not (checkout / ".venv").exists()
    script(checkout / ".venv" / "bin" / "python", "exit 1")
    ended = make(checkout, "migrate")
    assert (ended.returncode, ended.stderr.splitlines()[0]) == (
        2,
        ".venv has no pip: remove it and try again",
    )
