"""docker-compose.scale.yml: replicas come, go, restart and die in containers, under load."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.e2e.compose import Project, obstacle, shell, started_project
from tests.faults import history
from tests.faults.harness.clients import Load, Mix
from tests.faults.harness.operations import Kind, Operation, Outcome
from tests.faults.harness.stage import DEADLINE, STALE_TTL
from tests.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

CACHE_TTL = 60.0  # its default
PATIENCE = 2 * DEADLINE  # what is asked here is whether an answer comes
BAD = (Outcome.FAILED, Outcome.UNKNOWN)


@pytest.fixture(scope="module")
def project() -> Iterator[Project]:
    if reason := obstacle():
        pytest.skip(reason)
    with started_project("docker-compose.scale.yml") as started:
        yield started


@pytest.fixture
def two_replicas(project: Project) -> Project:
    """The project with two replicas and no users."""
    scale(project, 2)
    project.execute("postgres", "psql", "--quiet", "users", "--command", "TRUNCATE users")
    project.execute("redis", "redis-cli", "flushall")
    return project


def scale(project: Project, number: int) -> None:
    replicas = f"user-service={number}"
    project.compose("up", "--wait", "--no-recreate", "--scale", replicas)
    assert len(containers(project)) == number


def containers(project: Project) -> list[str]:
    """Return the ids of the replicas that run."""
    return project.compose("ps", "--quiet", "user-service").split()


def restart(container: str) -> None:
    shell("docker", "restart", "--time", "30", container)
    health = ("docker", "inspect", "--format", "{{.State.Health.Status}}", container)
    eventually(lambda: shell(*health).strip() == "healthy", timeout=60)


def users(project: Project) -> dict[int, str]:
    query = "SELECT id || ' ' || email FROM users"
    psql = ("psql", "--tuples-only", "--no-align", "users", "--command", query)
    rows = (line.split(" ") for line in project.execute("postgres", *psql).stdout.splitlines())
    return {int(user_id): email for user_id, email in rows}


@contextmanager
def load(project: Project) -> Iterator[Load]:
    """Have nine clients with kept connections at work; half of the POST have a key.

    Pages may be as old as CACHE_TTL: on a busy machine Redis is not always in time.
    """
    clients = Load("https://localhost", deadline=PATIENCE, mix=Mix(clients=9, keyed=0.5))
    began = time.monotonic()
    clients.start()
    try:
        time.sleep(2)
        yield clients
        time.sleep(2)
    finally:
        clients.stop()
    span = [(began, time.monotonic())]
    rule = history.PageRule(span, bound=CACHE_TTL + 1, stale_bound=STALE_TTL)
    assert history.check(clients.operations, users(project), rule).findings == []
    slowest = max(each.seconds for each in clients.operations)
    print(f"{len(clients.operations)} requests, the slowest {slowest:.2f} s")


def failures(load: Load) -> list[Operation]:
    assert len(load.operations) > 300
    return [each for each in load.operations if each.complaint or each.outcome in BAD]


def test_replicas_come_and_go_without_a_failed_request(two_replicas: Project) -> None:
    with load(two_replicas) as clients:
        for number in (3, 1, 2):
            scale(two_replicas, number)
            time.sleep(1)
    assert [str(each) for each in failures(clients)] == []


def test_rolling_restart_fails_no_request(two_replicas: Project) -> None:
    with load(two_replicas) as clients:
        for container in containers(two_replicas):
            restart(container)
    assert [str(each) for each in failures(clients)] == []


def test_killed_replica_fails_at_most_the_writes_that_it_held(two_replicas: Project) -> None:
    with load(two_replicas) as clients:
        for container in containers(two_replicas):
            shell("docker", "kill", "--signal", "KILL", container)
            time.sleep(3)
            restart(container)
    failed = failures(clients)
    print(f"failed: {[str(each) for each in failed]}")
    assert [str(each) for each in failed if each.kind in (Kind.READ, Kind.LIST)] == []
    assert len(failed) <= 2 * clients.mix.clients


def test_new_release_takes_over_without_a_failed_request(
    two_replicas: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = set(containers(two_replicas))
    monkeypatch.setenv("LOG_LEVEL", "WARNING")  # another configuration, as another image would be
    with load(two_replicas) as clients:
        scale(two_replicas, 4)
        two_replicas.compose("up", "--wait", "--scale", "user-service=2")
    assert [str(each) for each in failures(clients)] == []
    assert len(containers(two_replicas)) == 2
    assert old.isdisjoint(containers(two_replicas))
