"""Programs of the system that some tests drive: a browser, Prometheus, PgBouncer and the like."""

import os
import shutil
from pathlib import Path

import pytest


def program(name: str) -> str:
    """Return the path of ``name``; skip the test without it, or fail it where all must be there."""
    folders = [os.environ["PATH"], "/usr/sbin", *Path("/usr/lib/postgresql").glob("*/bin")]
    path = shutil.which(name, path=os.pathsep.join(map(str, folders)))
    if path is not None:
        return path
    if os.environ.get("TEST_PROGRAMS") == "required":
        pytest.fail(f"{name} is not installed, and TEST_PROGRAMS=required")
    pytest.skip(f"{name} is not installed")
