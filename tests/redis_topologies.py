"""Debian's Redis with Sentinel and as a Cluster: several processes each, on free ports."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import redis as redis_py
from redis.crc import key_slot

from dev.ports import free_port
from dev.servers import RedisServer
from tests.programs import program
from tests.waiting import eventually

SERVICE = "users"
PASSWORD = "of-all-servers"
# Milliseconds: how long a server is silent before the others think that it is gone.
DOWN_AFTER = 400
SLOTS = 16384


class DebianRedis(RedisServer):
    """A server of Redis 7, with the password that all of them have."""

    title = "Redis"
    program = "redis-server"
    mode: tuple[str, ...] = ()

    def __init__(self, data_dir: Path, options: Mapping[str, str]) -> None:
        prompt = {"masterauth": PASSWORD, "repl-diskless-sync-delay": "0"}
        super().__init__(data_dir, options={**prompt, **options})
        self._program = program("redis-server")

    def _prepare(self) -> None:
        self._dir.write("password", PASSWORD)
        super()._prepare()

    def _command(self) -> Sequence[str]:
        return [self._program, str(self._dir.path / "valkey.conf"), *self.mode]

    def client(self) -> redis_py.Redis:
        return redis_py.Redis.from_url(self.url, socket_timeout=5, decode_responses=True)

    def info(self, name: str) -> object:
        with self.client() as client:
            return client.info()[name]


class SentinelServer(DebianRedis):
    """One of those that watch the master and agree on another."""

    title = "Sentinel"
    mode = ("--sentinel",)

    def __init__(self, data_dir: Path, master: DebianRedis) -> None:
        watched = {
            f"sentinel monitor {SERVICE} 127.0.0.1 {master.port}": "2",
            f"sentinel auth-pass {SERVICE}": PASSWORD,
            f"sentinel down-after-milliseconds {SERVICE}": str(DOWN_AFTER),
            f"sentinel failover-timeout {SERVICE}": "1000",
        }
        super().__init__(data_dir, {**watched, "sentinel sentinel-pass": PASSWORD})


@dataclass(frozen=True)
class Watched:
    """A master and its replica, and the URL that names the three sentinels."""

    master: DebianRedis
    replica: DebianRedis
    url: str


@contextmanager
def sentinel(folder: Path) -> Iterator[Watched]:
    with ExitStack() as stack:
        master = stack.enter_context(DebianRedis(folder / "master", {}))
        follow = {"replicaof": f"127.0.0.1 {master.port}"}
        replica = stack.enter_context(DebianRedis(folder / "replica", follow))
        sentinels = [
            stack.enter_context(SentinelServer(folder / f"sentinel{n}", master)) for n in range(3)
        ]
        eventually(lambda: all(knows_everybody(each) for each in sentinels))
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in sentinels)
        service = f"{hosts}/{SERVICE}/0?sentinel_password={PASSWORD}"
        yield Watched(master, replica, f"redis+sentinel://:{PASSWORD}@{service}")


def knows_everybody(sentinel: SentinelServer) -> bool:
    with sentinel.client() as client:
        state = client.sentinel_master(SERVICE)
        return (state["num-other-sentinels"], state["num-slaves"]) == (2, 1)


def cut_off(master: DebianRedis, replica: DebianRedis) -> None:
    """Have ``replica`` miss all writes from now on, and none before."""
    assert run(master, "WAIT 1 5000") == 1
    run(replica, "CONFIG SET masterauth wrong")
    run(master, "CLIENT KILL TYPE replica")
    eventually(lambda: replica.info("master_link_status") == "down")


CLUSTER = {
    "cluster-enabled": "yes",
    "cluster-config-file": "nodes.conf",
    "cluster-node-timeout": str(DOWN_AFTER),
    "cluster-replica-validity-factor": "0",
    "cluster-allow-replica-migration": "no",  # or a master without slots becomes a replica
}


class ClusterNode(DebianRedis):
    """One that talks to the others on a port of its own: port + 10000 need not be free."""

    def __init__(self, data_dir: Path) -> None:
        self.bus_port = free_port()
        super().__init__(data_dir, {**CLUSTER, "cluster-port": str(self.bus_port)})


@dataclass(frozen=True)
class Cluster:
    """Three masters, and a replica of the one that has the slot of ``key``."""

    masters: list[ClusterNode]
    replica: ClusterNode
    home: ClusterNode

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in self.masters)
        return f"redis+cluster://:{PASSWORD}@{hosts}"


@contextmanager
def cluster(folder: Path, key: str) -> Iterator[Cluster]:
    with ExitStack() as stack:
        nodes = [stack.enter_context(ClusterNode(folder / f"node{n}")) for n in range(4)]
        *masters, replica = nodes
        bounds = [0, SLOTS // 3, 2 * SLOTS // 3, SLOTS]
        for node, (first, end) in zip(masters, pairwise(bounds), strict=True):
            run(node, f"CLUSTER ADDSLOTSRANGE {first} {end - 1}")
            run(node, f"CLUSTER SET-CONFIG-EPOCH {first + 1}")
            run(node, f"CLUSTER MEET 127.0.0.1 {replica.port} {replica.bus_port}")
        slot = key_slot(key.encode())
        home = masters[sum(slot >= bound for bound in bounds) - 1]
        eventually(
            lambda: all("cluster_known_nodes:4" in str(run(n, "CLUSTER INFO")) for n in nodes)
        )
        eventually(lambda: follows(replica, str(run(home, "CLUSTER MYID"))))
        eventually(lambda: replica.info("master_link_status") == "up")
        eventually(lambda: all("cluster_state:ok" in str(run(n, "CLUSTER INFO")) for n in nodes))
        yield Cluster(masters, replica, home)


@contextmanager
def joined(folder: Path, nodes: Cluster) -> Iterator[ClusterNode]:
    """Add a master without slots to a Cluster for a block."""
    members = [*nodes.masters, nodes.replica]
    with ClusterNode(folder) as node:
        run(node, f"CLUSTER MEET 127.0.0.1 {nodes.home.port} {nodes.home.bus_port}")
        eventually(lambda: "cluster_state:ok" in str(run(node, "CLUSTER INFO")))
        name = str(run(node, "CLUSTER MYID"))
        eventually(lambda: all(name in str(run(each, "CLUSTER NODES")) for each in members))
        yield node
        for each in members:
            run(each, f"CLUSTER FORGET {name}")


def follows(replica: DebianRedis, master: str) -> bool:
    with suppress(redis_py.ResponseError):  # it does not know that node yet
        run(replica, f"CLUSTER REPLICATE {master}")
        return True
    return False


def run(node: DebianRedis, command: str) -> object:
    """Run a command on this node, wherever its keys may be, and return the answer as it is."""
    with node.client() as client:
        client.response_callbacks.clear()
        return client.execute_command(*command.split(" "))
