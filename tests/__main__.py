"""``make test``: every test on embedded servers, and the integration tests again on containers."""

import subprocess
import sys
import time
from collections.abc import Sequence

from tests.servers import docker_answers

COVERAGE = ["--cov=user_service", "--cov-branch", "--cov-report=term-missing:skip-covered"]
# Two processes: most of these tests wait for a server.
IN_PARALLEL = ["--numprocesses=2", "--dist=loadfile"]
# The embedded servers' own tests need no second run.
NOT_ON_CONTAINERS = "--ignore=tests/integration/test_dev_servers.py"


def main(options: Sequence[str]) -> int:
    """Run all stages with pytest's ``options``; return 0 if every test has passed."""
    began = time.monotonic()
    failed = run_stage(
        "all tests, on PostgreSQL and Valkey from wheels",
        [*IN_PARALLEL, *COVERAGE, *options],
    )
    if docker_answers():
        failed |= run_stage(
            "integration tests, on postgres:17 and redis:8 containers",
            ["tests/integration", "--servers=containers", NOT_ON_CONTAINERS, *options],
        )
    else:
        print("== no Docker engine answers: the tests on containers are left out", flush=True)
    minutes, seconds = divmod(round(time.monotonic() - began), 60)
    print(f"== {'failed' if failed else 'passed'} after {minutes} min {seconds} s", flush=True)
    return int(failed)


def run_stage(title: str, arguments: Sequence[str]) -> bool:
    """Run pytest and return whether it has failed."""
    print(f"== {title}", flush=True)
    return subprocess.call([sys.executable, "-m", "pytest", *arguments]) != 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
