"""`make test`: everything on embedded servers, integration again on containers if possible."""

import subprocess
import sys

from tests.servers import docker_answers

PYTEST = [sys.executable, "-m", "pytest"]
COVERAGE = ["--cov=user_service", "--cov-branch", "--cov-report=term-missing:skip-covered"]


def main() -> int:
    print("== all tests, on PostgreSQL and Valkey from wheels", flush=True)
    failed = subprocess.call([*PYTEST, *COVERAGE, "--cov-fail-under=95", *sys.argv[1:]])
    if docker_answers():
        print("== integration tests, on postgres:17 and redis:8 containers", flush=True)
        command = [*PYTEST, "tests/integration", "--servers=containers", *sys.argv[1:]]
        command.append("--ignore=tests/integration/test_dev_servers.py")  # of the embedded ones
        failed = subprocess.call(command) or failed
    else:
        print("== no Docker engine answers: the containers' part is left out", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
