"""docker-compose.scale.yml: replicas come, go, restart and die in containers, under load."""

import time
from collections.abc import Callable, Iterator

import pytest

from tests.e2e.compose import Project, started_project
from tests.faults.harness.clients import DEADLINE, Load, Mix
from tests.faults.harness.operations import Kind, failures
from tests.faults.harness.stage import STALE_TTL
from tests.faults.history import PageRule, check
from tests.programs import shell
from tests.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

CACHE_TTL = 60.0  # its default
PATIENCE = 2 * DEADLINE  # what is asked here is whether an answer comes


@pytest.fixture(scope="module")
def started() -> Iterator[Project]:
    with started_project("docker-compose.scale.yml") as started:
        yield started


@pytest.fixture
def project(started: Project) -> Project:
    """The project with two replicas and no users."""
    scale(started, 2)
    started.execute("postgres", "psql", "--quiet", "users", "--command", "TRUNCATE users")
    started.execute("redis", "redis-cli", "flushall")
    return started


def scale(project: Project, number: int) -> None:
    replicas = f"user-service={number}"
    project.compose("up", "--wait", "--no-recreate", "--scale", replicas)
    assert len(containers(project)) == number


def containers(project: Project) -> list[str]:
    """Return the ids of the replicas that run."""
    return project.compose("ps", "--quiet", "user-service").split()


def restart(project: Project, container: str) -> None:
    """Restart a replica; return when it is healthy, and when the balancer has noticed."""
    shell("docker", "restart", "--time", "30", container)
    health = ("docker", "inspect", "--format", "{{.State.Health.Status}}", container)
    eventually(lambda: shell(*health).strip() == "healthy", timeout=60)
    eventually(lambda: balanced(project) == len(containers(project)))


def balanced(project: Project) -> int:
    """Return the number of replicas that the balancer has."""
    log = project.compose("logs", "--no-log-prefix", "balancer")
    *_, addresses = (line for line in log.splitlines() if line.startswith("nginx.sh: "))
    return len(addresses.partition(" is at ")[2].split())


def users(project: Project) -> dict[int, str]:
    query = "SELECT id || ' ' || email FROM users"
    psql = ("psql", "--tuples-only", "--no-align", "users", "--command", query)
    rows = (line.split(" ") for line in project.execute("postgres", *psql).stdout.splitlines())
    return {int(user_id): email for user_id, email in rows}


def replicas_come_and_go(project: Project) -> None:
    for number in (3, 1, 2):
        scale(project, number)
        time.sleep(1)


def each_restarts(project: Project) -> None:
    for container in containers(project):
        restart(project, container)


def each_is_killed(project: Project) -> None:
    for container in containers(project):
        shell("docker", "kill", "--signal", "KILL", container)
        time.sleep(3)
        restart(project, container)


def new_release_takes_over(project: Project) -> None:
    old = set(containers(project))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOG_LEVEL", "WARNING")  # another configuration, as another image would be
        project.compose("run", "--rm", "migrate")
        scale(project, 4)
        project.compose("up", "--wait", "--scale", "user-service=2")
    assert len(containers(project)) == 2
    assert old.isdisjoint(containers(project))


@pytest.mark.parametrize(
    "event", [replicas_come_and_go, each_restarts, each_is_killed, new_release_takes_over]
)
def test_event_fails_at_most_the_writes_of_a_killed_replica(
    project: Project, event: Callable[[Project], None]
) -> None:
    """Nine clients with kept connections are at work; half of the POST have a key.

    Pages may be as old as CACHE_TTL: on a busy machine Redis is not always in time.
    """
    began = time.monotonic()
    mix = Mix(clients=9, keyed=0.5)
    with Load("https://localhost", deadline=PATIENCE, mix=mix) as load:
        time.sleep(2)
        event(project)
        time.sleep(2)
    rule = PageRule([(began, time.monotonic())], bound=CACHE_TTL + 1, stale_bound=STALE_TTL)
    assert check(load.operations, users(project), rule).findings == []
    slowest = max(each.seconds for each in load.operations)
    failed = failures(load.operations)
    print(f"{len(load.operations)} requests, {len(failed)} failed, the slowest {slowest:.2f} s")
    assert len(load.operations) > 300
    assert [each for each in failed if each.kind in (Kind.READ, Kind.LIST)] == []
    assert len(failed) <= (2 * mix.clients if event is each_is_killed else 0)
