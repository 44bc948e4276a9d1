"""Several replicas behind the real gateway and balancer: one goes, one comes, one dies."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import httpx
import pytest

from tests.e2e.gateway import Addresses, balancer, gateway
from tests.e2e.service import SERVERS, RunningService
from tests.faults.harness.clients import READS, URL, Client, Load, Mix
from tests.faults.harness.credentials import HEADERS
from tests.faults.harness.figures import Row
from tests.faults.harness.operations import Outcome, failures
from tests.faults.harness.stage import STALE_TTL, Stage
from tests.faults.history import PageRule, check
from tests.waiting import eventually

REPLICA = {"WEB_CONCURRENCY": "1", "DRAIN_DELAY": "1"}


@pytest.fixture
def server() -> str:
    return "gunicorn"


@dataclass
class Fleet:
    """Replicas, the list of them that a name server would give, and the gateway before them."""

    stage: Stage
    server: str
    stack: ExitStack
    names: Addresses
    replicas: list[RunningService] = field(default_factory=list)
    url: str = ""

    def add(self) -> None:
        """Start a replica; it has a name, as a container has, before it can serve."""
        environment = REPLICA | {"SERVER": self.server}
        self.replicas.append(self.stack.enter_context(self.stage.service(environment)))
        self._name()

    def remove(self, replica: RunningService) -> None:
        """Stop a replica; Docker forgets its name only afterwards."""
        assert replica.stop(timeout=20) == 0
        self.replicas.remove(replica)
        self._name()

    def _name(self) -> None:
        self.names.set(*(each.port for each in self.replicas))

    @contextmanager
    def load(self, row: Row, mix: Mix) -> Iterator[Load]:
        """Have clients at work on the gateway for a block, and check what they saw."""
        with Load(self.url, mix=mix) as load:
            time.sleep(1)
            yield load
            time.sleep(1)
        row.count(load.operations)
        verdict = check(load.operations, self.stage.users(), PageRule(stale_bound=STALE_TTL))
        assert row.judge(verdict) == []


@pytest.fixture
def fleet(stage: Stage, server: str) -> Iterator[Fleet]:
    """Two replicas behind the balancer and the gateway."""
    with ExitStack() as stack:
        fleet = Fleet(stage, server, stack, Addresses(stage.folder / "names"))
        fleet.add()
        fleet.add()
        port = stack.enter_context(balancer(stage.folder / "balancer", fleet.names))
        addresses = Addresses(stage.folder / "addresses", port)
        entered = gateway(stage.folder / "gateway", addresses, balanced=True)
        fleet.url = stack.enter_context(entered).url
        yield fleet


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.row("rolling restart of two replicas behind the gateway")
def test_rolling_restart_behind_the_gateway_fails_no_request(fleet: Fleet, row: Row) -> None:
    with fleet.load(row, Mix(keyed=0.5)) as load:
        for replica in list(fleet.replicas):
            fleet.remove(replica)
            fleet.add()
    assert failures(load.operations) == []


@pytest.mark.slow
@pytest.mark.row("replica frozen (SIGSTOP) behind the gateway")
def test_frozen_replica_gets_no_requests_after_a_moment(fleet: Fleet, row: Row) -> None:
    pids = fleet.replicas[0].pids
    with fleet.load(row, READS) as load:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(2)
        with Client(fleet.url) as client:
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
    with httpx.Client(base_url=fleet.url, headers=HEADERS, verify=False, timeout=20) as client:
        assert client.get(URL).status_code == 200
        fleet.stage.postgres.stop()
        eventually(lambda: client.get("/health/ready").status_code == 503)
        time.sleep(1)
        problem = client.get(f"{URL}/1").json()
        assert problem["type"] == "urn:user-service:problem:unavailable"
        fleet.stage.postgres.start()
        eventually(lambda: client.get("/health/ready").status_code == 200)
