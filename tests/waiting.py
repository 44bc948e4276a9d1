"""Waiting for what takes a while."""

import time
from collections.abc import Callable

LONG = 30.0  # seconds; only a test that fails waits so long


def eventually(condition: Callable[[], bool], timeout: float = 60) -> None:
    """Wait until ``condition`` holds; fail after ``timeout`` seconds."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"not within {timeout} s"
        time.sleep(0.02)
