"""The OpenAPI document and the running service: it is fuzzed, and generated clients work."""

import importlib
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.service import SERVICE, RunningService, Start, clean_environment
from tests.programs import ROOT, make, program, shell

CLIENTS = Path(__file__).with_name("clients")
CURSOR_KEY = "known to the fuzzer too"
REACHED = {
    "GET /api/v1/users 200",
    "POST /api/v1/users 201",
    "GET /api/v1/users/{user_id} 200",
    "PUT /api/v1/users/{user_id} 200",
    "PATCH /api/v1/users/{user_id} 200",
    "DELETE /api/v1/users/{user_id} 204",
    "DELETE /api/v1/users/{user_id} 412",
    "GET /health 200",
}


@pytest.fixture
def service(start: Start) -> Iterator[RunningService]:
    # On a busy machine an open breaker would answer 503 to what is to be tried.
    with start(CURSOR_KEY=CURSOR_KEY, REQUEST_TIMEOUT="20", DB_POOL_TIMEOUT="10") as started:
        yield started


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("examples", [12, pytest.param(300, marks=pytest.mark.slow)])
def test_schemathesis_finds_nothing(
    service: RunningService, database_url: str, tmp_path: Path, examples: int
) -> None:
    """Run every check in every phase: examples, coverage, fuzzing and stateful links.

    With 300 examples it takes about four minutes, with another seed each time.
    """
    answers = tmp_path / "answers"
    seed = 1 if examples == 12 else random.randrange(2**32)
    options = ["--config-file", "schemathesis.toml", "run", f"{service.url}/openapi.json"]
    options += ["--checks=all", "--no-color", f"--seed={seed}", f"--max-examples={examples}"]
    run = subprocess.run(
        [sys.executable, "-m", "schemathesis.cli", *options],
        cwd=Path(__file__).with_name("fuzzing"),
        env=clean_environment()
        | {
            "PYTHONPATH": f"{ROOT}{os.pathsep}{SERVICE}",
            "SCHEMATHESIS_HOOKS": "tests.e2e.fuzzing.hooks",
            "CURSOR_KEY": CURSOR_KEY,
            "FUZZED_DATABASE_URL": database_url,
            "FUZZING_ANSWERS": str(answers),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, f"seed {seed}\n{run.stdout[-20_000:]}{run.stderr}"
    seen = set(answers.read_text("utf-8").splitlines())
    assert seen >= REACHED
    assert " 5" not in "".join(line[-4:] for line in seen)


@pytest.fixture
def generated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Return a function that imports a module of the Python client."""
    make("client", f"TARGET={tmp_path}/client")
    monkeypatch.syspath_prepend(tmp_path / "client")
    return lambda name: importlib.import_module(f"user_service_client.{name}")


def test_python_client_creates_lists_changes_and_deletes(
    service: RunningService, generated: Callable[[str], Any]
) -> None:
    models = generated("models")

    def api(operation: str) -> Any:
        return generated(f"api.users.{operation}")

    with generated("client").Client(base_url=service.url) as client:

        def create(name: str) -> Any:
            body = models.UserWrite(username=name, email=f"{name}@example.com")
            key = f'"create {name}"'
            return api("create_user").sync(client=client, body=body, idempotency_key=key)

        ada, grace, edsger = map(create, ("ada", "grace", "edsger"))
        assert isinstance(ada, models.User)
        assert create("ada") == ada
        taken = models.UserWrite(username="Ada", email="other@example.com")
        refused = api("create_user").sync(client=client, body=taken)
        assert isinstance(refused, models.Problem)
        assert refused.type_ == "urn:user-service:problem:user-exists"

        list_users, order = api("list_users").sync, {"sort": models.Sort.DESCENDING_ID}
        first = list_users(client=client, per_page=2, **order)
        rest = list_users(client=client, per_page=2, cursor=first.pagination.next_cursor, **order)
        walked = [user.username for user in (*first.users, *rest.users)]
        assert walked == ["edsger", "grace", "ada"]
        several = list_users(client=client, id=[ada.id, grace.id], count=models.Precision.EXACT)
        assert [user.to_dict() for user in several.users] == [ada.to_dict(), grace.to_dict()]
        fields = [models.UserMember.ID, models.UserMember.EMAIL]
        (listed,) = list_users(client=client, username="ada", fields=fields).users
        assert listed.to_dict() == {"id": ada.id, "email": ada.email}

        etag = api("get_user").sync_detailed(ada.id, client=client).headers["ETag"]
        patch = models.UserPatch(email="countess@example.com")
        change = {"client": client, "body": patch, "if_match": etag}
        changed = api("change_user").sync(ada.id, **change)
        assert (changed.username, changed.email) == ("ada", "countess@example.com")
        assert changed.updated_at > ada.updated_at
        replacement = models.UserReplacement.from_dict(
            {**changed.to_dict(), "username": "lovelace"}
        )
        stale = {"client": client, "body": replacement, "if_match": etag}
        assert api("replace_user").sync(ada.id, **stale).user.to_dict() == changed.to_dict()
        replaced = api("replace_user").sync(ada.id, client=client, body=replacement)
        assert replaced.username == "lovelace"

        deleted = api("delete_user").sync_detailed(edsger.id, client=client)
        assert deleted.status_code == 204
        gone = api("get_user").sync(edsger.id, client=client)
        assert gone.type_ == "urn:user-service:problem:user-not-found"
    ready = generated("models").ReadinessStatus
    assert ready.NOT_READY.value == "not ready"


def test_typescript_clients_create_walk_list_change_and_delete(
    service: RunningService, tmp_path: Path
) -> None:
    version = shell(program("node"), "--version")
    if int(version[1:].split(".")[0]) < 20:
        pytest.skip(f"Node.js {version.strip()} is older than 20")
    program("npm")
    make(f"{CLIENTS.relative_to(ROOT)}/node_modules/.package-lock.json")
    others = shutil.ignore_patterns("node_modules", "*.yaml")
    shutil.copytree(CLIENTS, tmp_path, ignore=others, dirs_exist_ok=True)
    (tmp_path / "node_modules").symlink_to(CLIENTS / "node_modules")

    def execute(command: str, *arguments: str) -> None:
        path = f"{tmp_path}/node_modules/.bin:{os.environ['PATH']}"
        subprocess.run([command, *arguments], cwd=tmp_path, env={"PATH": path}, check=True)

    document = f"{service.url}/openapi.json"
    execute("openapi-typescript", document, "--output", "openapi-typescript.ts")
    execute("openapi-ts", "--input", document, "--output", "openapi-ts", "--silent")
    execute("tsc")
    execute("node", "openapi-fetch.js", service.url)
    execute("node", "hey-api.js", service.url)
