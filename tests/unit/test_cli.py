"""The command line of operators, as far as it needs no server."""

import re

from click.testing import CliRunner

from dev.ports import free_port
from user_service.web.cli import migrate_command


def test_migration_without_a_server_fails_in_one_line() -> None:
    command = migrate_command(f"postgresql://users@127.0.0.1:{free_port()}/users", None)
    ended = CliRunner().invoke(command)
    assert ended.exit_code == 1
    assert re.fullmatch("Error: cannot connect to the database: .+\n", ended.output)
