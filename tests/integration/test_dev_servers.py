"""The servers of `make run` and of the tests keep data, recover and leave no process behind."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import httpx
import psycopg2
import pytest
import redis

from dev.ports import free_port
from dev.processes import wait_until
from dev.servers import DataDirInUse, PostgresServer, RedisServer, Server, ServerFailed

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 20.0

STARTER = """
import sys, threading
from pathlib import Path
from dev.servers import PostgresServer, RedisServer
server = {"postgres": PostgresServer, "redis": RedisServer}[sys.argv[1]](Path(sys.argv[2]))
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
    return [os.environ["DATABASE_URL"].encode()]
"""
STUB_SERVE = """
import os, sys
bind = sys.argv[1] + ":" + os.environ["PORT"]
options = ["--no-control-socket", "--bind", bind]
os.execv(sys.executable, [sys.executable, "-m", "gunicorn", *options, "app:app"])
"""


def query(url: str, sql: str) -> object:
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchone()[0] if cursor.description else None  # type: ignore[index]


def is_gone(pid: int) -> bool:
    """A zombie counts as gone: not every container has an init that reaps orphans."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def started_and_killed_with_its_parent(kind: str, data_dir: Path, state: str) -> int:
    """Have another process start a server, SIGKILL that process, return the server's pid."""
    command = [sys.executable, "-c", STARTER, kind, str(data_dir), state]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    return pid


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    server = PostgresServer(tmp_path_factory.mktemp("shared") / "postgres", durable=False)
    with server:
        yield server


@pytest.fixture
def postgres(template: PostgresServer) -> PostgresServer:
    template.start()
    template.thaw()
    return template


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis") as server:
        yield server


@pytest.fixture(params=[PostgresServer, RedisServer])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    started: Server = request.param(tmp_path / "data")
    with started:
        yield started


def test_rows_and_password_survive_into_a_new_object_on_the_same_directory(tmp_path: Path) -> None:
    with PostgresServer(tmp_path / "postgres") as first:
        query(first.url, "CREATE TABLE kept (id int); INSERT INTO kept VALUES (7)")
    with PostgresServer(tmp_path / "postgres", port=first.port) as second:
        assert second.url == first.url
        assert query(second.url, "SELECT id FROM kept") == 7


def test_database_belongs_to_a_plain_role_and_compares_unicode(postgres: PostgresServer) -> None:
    sql = "SELECT current_user || ' ' || rolsuper FROM pg_roles WHERE rolname = current_user"
    assert query(postgres.url, sql) == "users false"
    assert (
        query(
            postgres.url, "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'users'"
        )
        == "users"
    )
    assert query(postgres.url, "SELECT lower('ÄÖ')") == "äö"


def test_postgres_refuses_a_wrong_password(postgres: PostgresServer) -> None:
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        query(postgres.url.replace("users:", "users:x"), "SELECT 1")


def test_secrets_are_readable_by_their_owner_only(server: Server, tmp_path: Path) -> None:
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "data" / "password").stat().st_mode & 0o777 == 0o600
    password = (tmp_path / "data" / "password").read_text()
    assert password not in Path(f"/proc/{server.pid}/cmdline").read_text()


def test_options_reach_postgres(tmp_path: Path) -> None:
    with PostgresServer(tmp_path / "pg", options={"max_connections": "7"}, durable=False) as server:
        assert query(server.url, "SHOW max_connections") == "7"
        assert query(server.url, "SHOW fsync") == "off"


def test_second_user_of_a_directory_is_refused_in_one_line(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataDirInUse, match=rf"^\S+/data is in use by process {os.getpid()}$"):
        type(server)(tmp_path / "data").start()
    assert server.running


def test_stopped_server_gives_its_directory_back(server: Server, tmp_path: Path) -> None:
    server.stop()
    with type(server)(tmp_path / "data") as other:
        assert other.running


def test_failed_start_tells_why_and_gives_the_directory_back(tmp_path: Path) -> None:
    with pytest.raises(ServerFailed, match=r"stopped while starting\n.*shared_buffers"):
        PostgresServer(tmp_path / "pg", options={"shared_buffers": "wrong"}, durable=False).start()
    with PostgresServer(tmp_path / "pg", durable=False) as server:
        assert server.running


def test_committed_rows_survive_a_crash(postgres: PostgresServer) -> None:
    query(postgres.url, "CREATE TABLE crash (id int); INSERT INTO crash VALUES (1)")
    postgres.kill()
    postgres.start()
    assert query(postgres.url, "SELECT count(*) FROM crash") == 1


def test_restart_and_crash_keep_the_port(server: Server) -> None:
    url, pid = server.url, server.pid
    server.restart()
    server.kill()
    server.start()
    assert server.url == url
    assert server.pid != pid


def test_kill_leaves_no_backend(postgres: PostgresServer) -> None:
    with closing(psycopg2.connect(postgres.url)) as connection:
        backend = connection.info.backend_pid
        postgres.kill()
        assert wait_until(lambda: is_gone(backend), SECONDS)


def test_stale_pid_file_with_the_id_of_a_live_process_is_no_obstacle(
    postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    postgres.kill()
    pid_file = next(tmp_path_factory.getbasetemp().glob("shared*/postgres/cluster/postmaster.pid"))
    with subprocess.Popen(["/bin/sleep", "600"], user=pid_file.stat().st_uid) as bystander:
        lines = pid_file.read_text().splitlines()
        pid_file.write_text("\n".join([str(bystander.pid), *lines[1:]]) + "\n")
        try:
            postgres.start()
            assert bystander.poll() is None
        finally:
            bystander.kill()


def test_frozen_postgres_is_silent_until_thawed(postgres: PostgresServer) -> None:
    with closing(psycopg2.connect(postgres.url)) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        postgres.freeze()
        try:
            answer = threading.Thread(target=cursor.execute, args=["SELECT 42"])
            answer.start()
            socket.create_connection(("127.0.0.1", postgres.port), timeout=1).close()
            answer.join(0.2)
            assert answer.is_alive()
        finally:
            postgres.thaw()
        answer.join(SECONDS)
        assert cursor.fetchone() == (42,)


def test_frozen_server_can_be_stopped(server: Server) -> None:
    pid = server.pid
    server.freeze()
    server.stop()
    assert is_gone(pid)


def test_frozen_redis_is_silent_until_thawed(valkey: RedisServer) -> None:
    with closing(redis.Redis.from_url(valkey.url, socket_timeout=0.2, retry=None)) as client:
        assert client.ping()
        valkey.freeze()
        with pytest.raises(redis.TimeoutError):
            client.ping()
        valkey.thaw()
        assert client.ping()


def test_redis_wants_its_password(valkey: RedisServer) -> None:
    with (
        closing(redis.Redis.from_url(f"redis://127.0.0.1:{valkey.port}", retry=None)) as stranger,
        pytest.raises(redis.AuthenticationError, match="authenticated"),
    ):
        stranger.get("key")


def test_redis_forgets_over_a_restart(valkey: RedisServer) -> None:
    with closing(redis.Redis.from_url(valkey.url)) as client:
        client.set("key", "value")
        valkey.restart()
        assert client.get("key") is None


@pytest.mark.parametrize("kind", ["postgres", "redis"])
@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux tells a child of its parent's death"
)
def test_server_ends_when_its_launcher_is_killed(kind: str, tmp_path: Path) -> None:
    pid = started_and_killed_with_its_parent(kind, tmp_path / "data", "running")
    assert wait_until(lambda: is_gone(pid), SECONDS)


@pytest.mark.parametrize(("kind", "cls"), [("postgres", PostgresServer), ("redis", RedisServer)])
def test_leftover_server_of_the_directory_is_replaced(
    kind: str, cls: type[Server], tmp_path: Path
) -> None:
    leftover = started_and_killed_with_its_parent(kind, tmp_path / "data", "frozen")
    assert not is_gone(leftover)
    with cls(tmp_path / "data") as server:
        assert is_gone(leftover)
        assert server.running


def test_leftover_of_another_directory_is_left_alone(server: Server, tmp_path: Path) -> None:
    with type(server)(tmp_path / "other"):
        assert server.running


def test_server_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    server = RedisServer(tmp_path / "redis")
    starter = threading.Thread(target=server.start)
    starter.start()
    starter.join()
    with server:
        # If the thread's end were taken for ours, Valkey would end within a tenth of a second.
        assert not wait_until(lambda: not server.running, 0.5)


def test_ctrl_c_in_our_terminal_does_not_reach_the_server(server: Server) -> None:
    assert os.getsid(server.pid) == server.pid


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

    def get(self, path: str) -> str:
        with socket.create_connection(("127.0.0.1", self.port), timeout=SECONDS) as connection:
            connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            return connection.makefile().read()


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
def test_run_announces_itself_and_a_signal_drains_the_service_before_the_servers_stop(
    launched: Launched, signum: signal.Signals
) -> None:
    with launched.run() as process:
        lines = wait_for_line(process, "user service:")
        url = launched.get("/").splitlines()[-1]
        answers: list[str] = []
        slow = threading.Thread(target=lambda: answers.append(launched.get("/slow")))
        slow.start()
        assert wait_until(launched.slow_mark.exists, SECONDS)
        process.send_signal(signum)
        slow.join(SECONDS)
        process.communicate(timeout=SECONDS)
    assert [line.split(" ...")[0] for line in lines[:2]] == [
        "starting PostgreSQL 18",
        "starting Valkey",
    ]
    assert f"http://127.0.0.1:{launched.port}  (Ctrl-C stops it; data in " in lines[-1]
    assert answers[0].startswith("HTTP/1.0 200")
    assert process.returncode == 0
    with pytest.raises(psycopg2.OperationalError, match="refused"):
        query(url, "SELECT 1")


def test_run_writes_its_addresses_for_its_user_only(launched: Launched) -> None:
    file = launched.folder / "data" / "addresses"
    with launched.run() as process:
        wait_for_line(process, "user service:")
        shell = ["bash", "-c", f". {file}; echo $DATABASE_URL; echo $REDIS_URL"]
        told = subprocess.run(shell, capture_output=True, text=True, check=True).stdout.split()
        assert told[0] == launched.get("/").splitlines()[-1]
        assert told[1].startswith("redis://")
        assert file.stat().st_mode & 0o077 == 0
        process.terminate()
        process.communicate(timeout=SECONDS)
    assert not file.exists()


def test_run_uses_given_servers(launched: Launched) -> None:
    given = {"DATABASE_URL": "postgresql://elsewhere/users", "REDIS_URL": "redis://elsewhere"}
    with launched.run(**given) as process:
        lines = wait_for_line(process, "user service:")
        assert launched.get("/").endswith("postgresql://elsewhere/users")
        process.terminate()
        process.communicate(timeout=SECONDS)
    assert not [line for line in lines if line.startswith("starting")]


def test_run_ends_in_one_line_when_a_server_dies(launched: Launched) -> None:
    with launched.run() as process:
        wait_for_line(process, "user service:")
        cluster = launched.folder / "data" / "postgres" / "cluster"
        os.kill(int((cluster / "postmaster.pid").read_text().splitlines()[0]), signal.SIGKILL)
        _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert "make run: PostgreSQL 18 died" in errors.splitlines()[-1]


def test_run_goes_on_without_redis(tmp_path: Path) -> None:
    """The real service, from which Redis is taken: no user route may answer otherwise."""
    port = free_port()
    command = [sys.executable, "-m", "dev.run"]
    environ = {**os.environ, "PORT": str(port), "DATA_DIR": str(tmp_path / "data")}
    with subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True) as run:
        wait_for_line(run, "user service:")
        users = f"http://127.0.0.1:{port}/api/v1/users"
        addresses = (tmp_path / "data" / "addresses").read_text()
        redis_url = next(word for word in re.split(r"[\s='\"]+", addresses) if "redis://" in word)
        with redis.Redis.from_url(redis_url) as client, suppress(redis.RedisError):
            client.shutdown(nosave=True)
        wait_for_line(run, "Valkey ended; the service goes on")
        ada = {"username": "ada", "email": "ada@example.com"}
        assert httpx.post(users, json=ada).status_code == 201
        assert httpx.post(users, json=ada).status_code == 409
        assert httpx.get(users).status_code == 200
        assert httpx.get(f"{users}/1").status_code == 200
        assert httpx.patch(f"{users}/1", json={"username": "grace"}).status_code == 200
        assert httpx.delete(f"{users}/1").status_code == 204
        run.terminate()
        run.communicate(timeout=SECONDS)
    assert run.returncode == 0


def test_run_ends_in_one_line_when_the_service_cannot_start(launched: Launched) -> None:
    (launched.folder / "app.py").write_text("raise RuntimeError('wrong settings')")
    with launched.run() as process:
        _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert errors.splitlines()[-1].startswith("make run: the service died with exit code ")


def test_second_run_on_the_same_data_is_refused_in_one_line(launched: Launched) -> None:
    with launched.run() as first:
        wait_for_line(first, "user service:")
        with launched.run() as second:
            output, errors = second.communicate(timeout=SECONDS)
        first.terminate()
        first.communicate(timeout=SECONDS)
    assert (second.returncode, output) == (1, "")
    assert errors == f"make run: {launched.folder}/data is in use by process {first.pid}\n"


def test_run_refuses_a_taken_port_before_it_starts_anything(launched: Launched) -> None:
    with socket.create_server(("127.0.0.1", launched.port)), launched.run() as process:
        output, errors = process.communicate(timeout=SECONDS)
    assert (process.returncode, output) == (1, "")
    assert errors == f"make run: port {launched.port} is taken: choose another with PORT=\n"


@pytest.mark.parametrize(
    ("name", "value"),
    [("PORT", "abc"), ("PORT", "0"), ("PORT", "65536"), ("PORT", "²"), ("DATA_DIR", __file__)],
)
def test_run_refuses_a_wrong_value_in_one_line(launched: Launched, name: str, value: str) -> None:
    with launched.run(**{name: value}) as process:
        output, errors = process.communicate(timeout=SECONDS)
    assert (process.returncode, output) == (2, "")
    assert errors.startswith(f"make run: {name} takes ")
    assert errors.count("\n") == 1
