"""PgBouncer in transaction mode, as the documents configure it, before a PostgreSQL server."""

import configparser
import os
import re
import shutil
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from socket import create_connection

from psycopg2.extensions import make_dsn, parse_dsn

from dev.data_dir import ServerFailed
from dev.lifecycle import Server

PAGE = Path(__file__).parents[1] / "docs" / "postgresql-and-redis.md"


class PgBouncer(Server):
    """Lends the few connections that it has to ``database_url`` to each transaction.

    The program is that of the system. Raise ServerFailed if it is not installed.
    """

    title = "PgBouncer"
    program = "pgbouncer"
    stop_signal = signal.SIGINT

    def __init__(
        self, data_dir: Path, database_url: str, *, options: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(data_dir, options=options)
        path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"
        found = shutil.which("pgbouncer", path=path)
        if found is None:
            raise ServerFailed("pgbouncer is not installed")
        self._program = found
        self._database = parse_dsn(database_url)

    @property
    def url(self) -> str:
        """The database, through PgBouncer."""
        name = self._database["dbname"]
        login = f"{self._database['user']}:{self._database['password']}"
        return f"postgresql://{login}@127.0.0.1:{self.port}/{name}"

    @property
    def _ini(self) -> Path:
        # The mark in the name, by which a process of this directory is known.
        return self._dir.path / f"{self._dir.mark}.ini"

    def _prepare(self) -> None:
        settings = documented_settings()
        database = self._database
        settings["databases"] = {
            database["dbname"]: str(
                make_dsn(host=database["host"], port=database["port"], dbname=database["dbname"])
            )
        }
        settings["pgbouncer"] |= {
            "listen_addr": "127.0.0.1",
            "listen_port": str(self.port),
            "unix_socket_dir": "",
            "auth_file": str(self._dir.path / "userlist.txt"),
            **self._options,
        }
        login = f'"{database["user"]}" "{database["password"]}"\n'
        self._dir.write("userlist.txt", login)
        with self._dir.create(self._ini.name) as file:
            lines = [
                line
                for section, values in settings.items()
                for line in (f"[{section}]", *(f"{key} = {values[key]}" for key in values))
            ]
            file.write("\n".join(lines).encode())

    def _command(self) -> Sequence[str]:
        return [self._program, str(self._ini)]

    def _ready(self) -> bool:
        try:
            create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True


def documented_settings() -> dict[str, dict[str, str]]:
    """Return the pgbouncer.ini that the documents show."""
    (text,) = re.findall(r"```ini\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    parser = configparser.ConfigParser()
    parser.read_string(text)
    return {section: dict(parser[section]) for section in parser.sections()}
