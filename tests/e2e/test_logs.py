"""The log of each server in a pipe whose reader has stalled."""

import os
from pathlib import Path

import httpx
import pytest

from tests.e2e.service import SERVERS, running


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def fill(pipe: Path) -> None:
    """Write to ``pipe`` until nothing fits in."""
    writer = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    for size in (4096, 1):
        with pytest.raises(BlockingIOError):
            while True:
                os.write(writer, b"." * size)
    os.close(writer)


def test_reader_of_the_log_that_stalls_blocks_neither_requests_nor_a_stop(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with running(pipe, environment | {"DRAIN_DELAY": "0"}) as service:
        fill(pipe)
        with httpx.Client(base_url=service.url, timeout=20) as http:
            for path in ("/health/live", "/health/ready", "/api/v1/users", "/nowhere"):
                assert http.get(path).status_code in (200, 404)
        assert service.stop() == 0
    os.close(reader)
