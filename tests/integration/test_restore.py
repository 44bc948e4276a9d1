"""The commands of docs/backup-and-restore.md, and what holds after a restore."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
from flask import Flask
from flask.testing import FlaskClient
from psycopg2.extensions import parse_dsn
from pydantic import SecretStr

from app import create_app
from dev.servers import postgres_program
from tests.responses import json_of, problem_of
from tests.servers import Servers
from user_service.database.migrate import migrate
from user_service.settings import Settings
from user_service.web.services import services_of

ROOT = Path(__file__).resolve().parents[2]
SERVICE = ROOT / "services" / "user-service"
DUMP, RESTORE, USERS_ALONE = re.findall(
    r"```sh\n(.*?)```", (ROOT / "docs" / "backup-and-restore.md").read_text("utf-8"), re.DOTALL
)
URL = "/api/v1/users"


@pytest.fixture
def restored_url(servers: Servers, dsn: str) -> str:
    """The URL of an empty database."""
    return f"{servers.database_url.rpartition('/')[0]}/{parse_dsn(dsn)['dbname']}"


@pytest.fixture
def restored(settings: Settings, restored_url: str) -> Iterator[FlaskClient]:
    """A client of the service on what was restored."""
    url = SecretStr(restored_url)
    app = create_app(settings.model_copy(update={"database_url": url, "migrate_on_start": False}))
    yield app.test_client()
    services_of(app).close()


@pytest.fixture
def environment(servers: Servers, restored_url: str) -> dict[str, str]:
    """The variables that the page names."""
    return {
        "DATABASE_URL": servers.database_url,
        "RESTORED_URL": restored_url,
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
    client: FlaskClient,
    restored: FlaskClient,
    environment: dict[str, str],
    tmp_path: Path,
    commands: str,
) -> None:
    for name in ("ada", "grace", "edsger"):
        client.post(URL, json={"username": name, "email": f"{name}@example.com"})
    client.delete(f"{URL}/2")
    kept = client.get(f"{URL}/1")
    run(commands, tmp_path, environment)
    lost = client.patch(f"{URL}/1", json={"username": "lost"}).headers["ETag"]

    assert restored.get(f"{URL}/1").headers["ETag"] == kept.headers["ETag"]
    page = json_of(restored.get(URL))
    assert [user["id"] for user in page["users"]] == [1, 3]
    assert page["pagination"]["total"] == 2
    created = restored.post(URL, json={"username": "new", "email": "new@example.com"})
    assert json_of(created)["id"] == 4
    assert json_of(restored.get(URL))["pagination"]["total"] == 3

    assert restored.patch(f"{URL}/1", json={"username": "other"}).status_code == 200
    refused = restored.put(
        f"{URL}/1", json={"username": "mine", "email": "a@b.example"}, headers={"If-Match": lost}
    )
    assert problem_of(refused, 412)["user"]["username"] == "other"


def test_recount_corrects_the_total_and_puts_cached_pages_out_of_date(
    app: Flask, client: FlaskClient
) -> None:
    client.post(URL, json={"username": "ada", "email": "ada@example.com"})
    with services_of(app).database.transaction() as cursor:
        cursor.execute("DELETE FROM users_count WHERE slot > 5")
        cursor.execute("UPDATE users_count SET number = 7")
    assert json_of(client.get(URL))["pagination"]["total"] == 42
    result = app.test_cli_runner().invoke(args=["users", "recount"])
    assert (result.exit_code, result.output) == (0, "1 users\n")
    assert json_of(client.get(URL))["pagination"]["total"] == 1
    with services_of(app).database.read() as cursor:
        cursor.execute("SELECT count(*) FROM users_count")
        assert cursor.fetchone() == (64,)


def test_write_of_another_schema_counts_there(restored_url: str) -> None:
    def total(schema: str) -> int:
        cursor.execute(f"SELECT sum(number)::int FROM {schema}.users_count")
        ((number,),) = cursor.fetchall()
        return int(number)

    with closing(psycopg2.connect(restored_url)) as opened, opened.cursor() as cursor:
        opened.autocommit = True
        for schema in ("one", "two"):
            cursor.execute(f"CREATE SCHEMA {schema}")
            migrate(f"{restored_url}?options=-csearch_path%3D{schema}")
            cursor.execute(
                f"INSERT INTO {schema}.users (username, username_canonical, email, email_canonical)"
                " VALUES ('ada', 'ada', 'ada@example.com', 'ada@example.com')"
            )
        cursor.execute("SET search_path = two")
        cursor.execute("DELETE FROM one.users")
        assert (total("one"), total("two")) == (0, 1)
