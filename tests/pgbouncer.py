"""PgBouncer in transaction mode, as the documents configure it, before a PostgreSQL server."""

import configparser
import re
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from socket import create_connection

from psycopg2.extensions import make_dsn, parse_dsn

from dev.servers import Server
from tests.programs import program

PAGE = Path(__file__).parents[1] / "docs" / "postgresql-and-redis.md"


class PgBouncer(Server):
    """Lends the few connections that it has to ``database_url`` to whoever comes."""

    title = "PgBouncer"
    program = "pgbouncer"
    stop_signal = signal.SIGINT

    def __init__(
        self, data_dir: Path, database_url: str, *, options: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(data_dir, options=options)
        self._program = program("pgbouncer")
        self._database = parse_dsn(database_url)

    @property
    def url(self) -> str:
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
            "default_pool_size": "2",
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
