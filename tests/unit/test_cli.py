"""The command line of operators, as far as it needs no server."""

import re

import click
import pytest
from click.testing import CliRunner

from app import create_app
from dev.ports import free_port
from user_service.settings import Settings
from user_service.web.cli import migrate_command


def test_migration_without_a_server_fails_in_one_line() -> None:
    command = migrate_command(f"postgresql://users@127.0.0.1:{free_port()}/users", None)
    ended = CliRunner().invoke(command)
    assert ended.exit_code == 1
    assert re.fullmatch("Error: cannot connect to the database: .+\n", ended.output)


@pytest.mark.parametrize(
    "setting",
    [
        {"database_url": "postgresql://host/users?foo=bar"},
        {"redis_url": "redis://host?foo=bar"},
        {"prometheus_multiproc_dir": "/proc/none"},
    ],
)
def test_setting_that_a_library_rejects_is_an_error_of_the_command(setting: dict[str, str]) -> None:
    with pytest.raises(click.ClickException, match=r"^.+$"):
        create_app(Settings.model_validate(setting))
