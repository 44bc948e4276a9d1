"""Waiting for what takes a while."""

import time
from collections.abc import Callable
from pathlib import Path

LONG = 30.0  # seconds; only a test that fails waits so long


def eventually(condition: Callable[[], bool], timeout: float = 60) -> None:
    """Wait until ``condition`` holds; fail after ``timeout`` seconds."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"not within {timeout} s"
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    """A zombie counts as gone: not every container has an init that reaps orphans."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True
