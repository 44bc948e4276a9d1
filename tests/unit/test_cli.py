"""The command line of operators, as far as it needs no server."""

import re

import click
import pytest
from click.testing import CliRunner

from app import create_app
from dev.ports import free_port
from user_service.settings import Settings
from user_service.web.cli import migrate_command


@pytest.mark.parametrize("command", ["migrate", "users recount", "users check", "keys list"])
def test_command_without_a_server_fails_in_one_line(command: str) -> None:
    url = f"postgresql://users@127.0.0.1:{free_port()}/users"
    app = create_app(Settings.model_validate({"database_url": url}))
    ended = app.test_cli_runner().invoke(args=command.split())
    assert ended.exit_code == 1
    assert re.fullmatch("Error: cannot connect to the database: .+\n", ended.output)


def test_migration_needs_the_role_that_gets_privileges() -> None:
    command = migrate_command("postgresql:///users", "postgresql://users@127.0.0.1:1/users")
    ended = CliRunner().invoke(command)
    assert ended.output == "Error: the URL of the database names no role\n"


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("database_url", "postgresql://host/users?foo=bar", "has parts that libpq rejects"),
        ("redis_url", "redis://host?foo=bar", "has an option that is not supported"),
        ("prometheus_multiproc_dir", "/proc/none", "No such file or directory"),
    ],
)
def test_setting_that_a_library_rejects_is_an_error_of_the_command(
    name: str, value: str, reason: str
) -> None:
    with pytest.raises(click.ClickException, match=rf"^.*{reason}.*$"):
        create_app(Settings.model_validate({name: value}))
