"""The commands of docs/backup-and-restore.md, and what holds after a restore."""

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from flask.testing import FlaskClient

from dev.servers import postgres_program
from tests.e2e.service import SERVICE
from tests.integration.queries import value
from tests.integration.users import GRACE, URL, USER, create, page, total
from tests.programs import commands_of
from tests.responses import Serve, json_of, problem_of
from tests.servers import Servers
from user_service.database.migrate import migrate

# Those after them are for Docker Compose.
DUMP, RESTORE, USERS_ALONE, *_ = commands_of("backup-and-restore.md")


@pytest.fixture
def environment(servers: Servers, dsn: str) -> dict[str, str]:
    """The variables that the page names."""
    return {
        "DATABASE_URL": servers.database_url,
        "DATABASE_OWNER_URL": servers.owner_url,
        "RESTORED_URL": servers.database_url.removesuffix("users") + dsn.rpartition("/")[2],
        "RESTORED_OWNER_URL": dsn,
        "REDIS_URL": servers.redis_url,
    }


def run(commands: str, folder: Path, environment: dict[str, str]) -> None:
    """Run ``commands`` of the page in ``folder``, with the service's ``flask``."""
    programs = [Path(sys.executable).parent, Path(postgres_program("pg_dump")).parent]
    path = os.pathsep.join([*map(str, programs), os.environ["PATH"]])
    app = f"flask --app {SERVICE / 'app.py'}"
    subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands.replace("flask --app app", app)],
        cwd=folder,
        env={"PATH": path, "PYTHONPATH": str(SERVICE)} | environment,
        check=True,
        timeout=100,
    )


@pytest.mark.parametrize("commands", [DUMP + RESTORE, USERS_ALONE], ids=["all", "users alone"])
def test_commands_restore_the_users_and_no_etag_of_a_lost_state(
    client: FlaskClient, serving: Serve, environment: dict[str, str], tmp_path: Path, commands: str
) -> None:
    create(client, "ada", "grace", "edsger")
    client.delete(f"{URL}/2")
    kept = client.get(USER)
    run(commands, tmp_path, environment)
    lost = client.patch(USER, json={"username": "lost"}).headers["ETag"]

    restored = serving(database_url=environment["RESTORED_URL"], migrate_on_start=False)
    assert restored.get(USER).headers["ETag"] == kept.headers["ETag"]
    found = page(restored)
    assert [user["id"] for user in found["users"]] == [1, 3]
    assert found["pagination"]["total"] == 2
    assert json_of(create(restored, "new"))["id"] == 4
    assert total(restored) == 3

    assert restored.patch(USER, json={"username": "other"}).status_code == 200
    refused = restored.put(USER, json=GRACE, headers={"If-Match": lost})
    assert problem_of(refused, 412)["user"]["username"] == "other"


def test_write_of_another_schema_counts_there_whatever_its_name(dsn: str) -> None:
    def counted(schema: str) -> Any:
        return value(cursor, f"SELECT sum(number)::int FROM {schema}.users_count")

    with closing(psycopg2.connect(dsn)) as opened, opened.cursor() as cursor:
        opened.autocommit = True
        for schema in ("one", "two"):
            cursor.execute(f"CREATE SCHEMA {schema}")
            migrate(f"{dsn}?options=-csearch_path%3D{schema}")
            cursor.execute(
                f"INSERT INTO {schema}.users (username, username_canonical, email, email_canonical)"
                " VALUES ('ada', 'ada', 'ada@example.com', 'ada@example.com')"
            )
        cursor.execute("SET search_path = two")
        cursor.execute('ALTER SCHEMA one RENAME TO "the 1st"')
        cursor.execute('DELETE FROM "the 1st".users')
        assert (counted('"the 1st"'), counted("two")) == (0, 1)
        cursor.execute("TRUNCATE two.users")
        assert counted("two") == 0
