"""Several replicas behind the real gateway and balancer: one goes, one comes, one dies."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field

import httpx
import pytest

from tests.e2e.gateway import Addresses, Gateway, balancer, gateway
from tests.e2e.service import RunningService
from tests.faults import history
from tests.faults.harness.clients import READS, URL, Client, Load, Mix
from tests.faults.harness.figures import Row
from tests.faults.harness.operations import Kind, Operation, Outcome
from tests.faults.harness.stage import DEADLINE, STALE_TTL, Stage
from tests.waiting import eventually

TTL = 2
REPLICA = {"CACHE_TTL": str(TTL), "WEB_CONCURRENCY": "1", "DRAIN_DELAY": "1"}
BAD = (Outcome.FAILED, Outcome.UNKNOWN)


@dataclass
class Fleet:
    """Replicas, the list of them that a name server would give, and the gateway before them."""

    stage: Stage
    stack: ExitStack
    names: Addresses
    replicas: list[RunningService] = field(default_factory=list)
    gateway: Gateway | None = None

    def add(self) -> RunningService:
        """Start a replica; it has a name, as a container has, before it can serve."""
        replica = self.stack.enter_context(self.stage.service(REPLICA))
        self.replicas.append(replica)
        self._name()
        return replica

    def remove(self, replica: RunningService) -> None:
        """Stop a replica; Docker forgets its name only afterwards."""
        assert replica.stop(timeout=20) == 0
        self.forget(replica)

    def forget(self, replica: RunningService) -> None:
        self.replicas.remove(replica)
        self._name()

    def _name(self) -> None:
        self.names.set(*(each.port for each in self.replicas))

    @contextmanager
    def load(self, row: Row, mix: Mix, pages: history.PageRule | None = None) -> Iterator[Load]:
        """Have clients at work on the gateway for a block, and check what they saw."""
        assert self.gateway is not None
        load = Load(self.gateway.url, deadline=DEADLINE, mix=mix)
        load.start()
        try:
            time.sleep(1)
            yield load
            time.sleep(1)
        finally:
            load.stop()
        row.count(load.operations)
        rule = pages or history.PageRule(stale_bound=STALE_TTL)
        verdict = history.check(load.operations, self.stage.users(), rule)
        row.lost = len(verdict.lost) + len(verdict.twice) + len(verdict.ghosts)
        row.stale = len(verdict.stale) + len(verdict.stale_pages)
        assert verdict.findings == []


@pytest.fixture
def fleet(stage: Stage) -> Iterator[Fleet]:
    """Two replicas behind the balancer and the gateway."""
    with ExitStack() as stack:
        fleet = Fleet(stage, stack, Addresses(stage.folder / "names"))
        fleet.add()
        fleet.add()
        port = stack.enter_context(balancer(stage.folder / "balancer", fleet.names))
        addresses = Addresses(stage.folder / "addresses", port)
        entered = gateway(stage.folder / "gateway", addresses, balanced=True)
        fleet.gateway = stack.enter_context(entered)
        yield fleet


def failures(load: Load) -> list[str]:
    return [f"{each} {each.complaint}" for each in load.operations if is_bad(each)]


def is_bad(operation: Operation) -> bool:
    return bool(operation.complaint) or operation.outcome in BAD


@pytest.mark.row("rolling restart of two replicas behind the gateway")
def test_rolling_restart_behind_the_gateway_fails_no_request(fleet: Fleet, row: Row) -> None:
    with fleet.load(row, Mix(keyed=0.5)) as load:
        for replica in list(fleet.replicas):
            fleet.remove(replica)
            fleet.add()
    assert failures(load) == []


@pytest.mark.slow
@pytest.mark.row("replicas 2 -> 3 -> 1 -> 2 behind the gateway")
def test_replicas_come_and_go_without_a_failed_request(fleet: Fleet, row: Row) -> None:
    with fleet.load(row, Mix(keyed=0.5)) as load:
        fleet.add()
        time.sleep(1)
        for replica in fleet.replicas[:2]:
            fleet.remove(replica)
        time.sleep(1)
        fleet.add()
        time.sleep(1)
    assert failures(load) == []


@pytest.mark.slow
@pytest.mark.row("replica killed (-9) behind the gateway")
def test_killed_replica_fails_at_most_the_writes_that_it_held(fleet: Fleet, row: Row) -> None:
    began = time.monotonic()
    # Killed between COMMIT and invalidation: pages may be as old as CACHE_TTL.
    pages = history.PageRule([(began, began + 60)], bound=TTL + 1, stale_bound=STALE_TTL)
    mix = Mix(keyed=0.5, pause=0.002)
    with fleet.load(row, mix, pages) as load:
        for _ in range(3):
            killed = fleet.replicas[0]
            for pid in killed.pids:
                os.kill(pid, signal.SIGKILL)
            time.sleep(1)
            fleet.forget(killed)
            fleet.add()
            time.sleep(1)
    failed = [each for each in load.operations if is_bad(each)]
    row.note(f"3 kills, {len(failed)} writes without an answer of the service")
    assert [str(each) for each in failed if each.kind in (Kind.READ, Kind.LIST)] == []
    assert len(failed) <= 3 * mix.clients


@pytest.mark.slow
@pytest.mark.row("replica frozen (SIGSTOP) behind the gateway")
def test_frozen_replica_gets_no_requests_after_a_moment(fleet: Fleet, row: Row) -> None:
    assert fleet.gateway is not None
    frozen = fleet.replicas[0]
    pids = frozen.pids
    with fleet.load(row, READS) as load:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(2)
        with closing(Client(fleet.gateway.url, deadline=DEADLINE)) as client:
            later = [client.list_users() for _ in range(100)]
        time.sleep(5)
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    longest = max(each.seconds for each in later)
    row.note(f"the longest of 100 reads that began after 2 s: {longest:.2f} s")
    assert longest < 1
    # Those that it held have another replica's answer before the gateway gives them up.
    assert {each.outcome for each in load.operations} == {Outcome.OK}
    assert max(each.seconds for each in load.operations) < 8


@pytest.mark.slow
@pytest.mark.row("no replica ready behind the gateway")
def test_clients_get_the_services_own_problem_when_no_replica_is_ready(
    fleet: Fleet, row: Row
) -> None:
    assert fleet.gateway is not None
    with httpx.Client(base_url=fleet.gateway.url, verify=False, timeout=20) as client:
        assert client.get(URL).status_code == 200
        fleet.stage.postgres.stop()
        eventually(lambda: client.get("/health/ready").status_code == 503)
        time.sleep(1)
        problem = client.get(f"{URL}/1").json()
        assert problem["type"] == "urn:user-service:problem:unavailable"
        fleet.stage.postgres.start()
        eventually(lambda: client.get("/health/ready").status_code == 200)
