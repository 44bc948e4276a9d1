"""The examples of the documents, on the running service."""

import re
import sys

import httpx
import pytest

from tests.e2e.service import FLASK, RunningService, Start, run
from tests.links import linked
from tests.programs import ROOT, program, shell

EXAMPLES = ROOT / "docs" / "examples"
REQUEST = re.compile(r"^### .+\n([A-Z]+) (\S+)\n((?:\S+: .+\n)*)\n?(\{.+\n)?", re.MULTILINE)


@pytest.mark.parametrize(
    ("interpreter", "example"),
    [("bash", "users.sh"), (sys.executable, "users.py"), ("node", "users.mjs")],
)
def test_example_creates_once_walks_and_changes(
    start: Start, environment: dict[str, str], database_url: str, interpreter: str, example: str
) -> None:
    with linked(database_url) as (link, url), start(DATABASE_URL=url) as service:
        assert run([*FLASK, "users", "seed", "230"], environment).returncode == 0
        link.cut_commits(1, forward=True)
        said = shell(program(interpreter), str(EXAMPLES / example), service.url)
        (ada,) = httpx.get(f"{service.url}/api/v1/users?username=ada").json()["users"]
    assert link.commits_cut == 1
    assert ada["email"] == "countess@example.com"
    assert said.splitlines() == [f"created {ada['id']}", "walked 231", f"changed {ada['id']}"]


def test_each_request_of_the_collection_succeeds(service: RunningService) -> None:
    collection = (EXAMPLES / "users.http").read_text("utf-8")
    values = {"service": service.url}

    def filled(text: str) -> str:
        return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], text)

    for name in ("grace", "edsger"):
        user = {"username": name, "email": f"{name}@example.com"}
        assert httpx.post(f"{service.url}/api/v1/users", json=user).status_code == 201
    statuses = []
    for method, url, lines, body in REQUEST.findall(collection):
        headers = dict(line.split(": ", 1) for line in filled(lines).splitlines())
        answer = httpx.request(method, filled(url), headers=headers, content=body)
        assert answer.is_success, f"{method} {filled(url)}: {answer.text}\n{service.log}"
        statuses.append(answer.status_code)
        if method == "POST":
            values |= {"id": str(answer.json()["id"]), "etag": answer.headers["ETag"]}
        elif method == "GET":
            values["cursor"] = answer.json()["pagination"]["next_cursor"]
    assert statuses == [201, 200, 200, 200, 204]
