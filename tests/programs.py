"""Programs of the system that some tests drive: a browser, Prometheus, PgBouncer and the like."""

import os
import shutil

import pytest


def program(name: str) -> str:
    """Return the path of ``name``; skip the test without it, or fail it where all must be there."""
    path = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    if path is not None:
        return path
    if os.environ.get("TEST_PROGRAMS") == "required":
        pytest.fail(f"{name} is not installed, and TEST_PROGRAMS=required")
    pytest.skip(f"{name} is not installed")
