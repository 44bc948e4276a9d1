"""``/openapi.json`` and ``/docs``: what is served, and how it may be kept."""

import re

import pytest
from flask.testing import FlaskClient

from tests.responses import json_of, problem_of

DOCS = "/docs"
DOCUMENT = "/openapi.json"


def addresses(client: FlaskClient) -> list[str]:
    return re.findall(r'(?:src|href|data-document)="([^"]+)"', client.get(DOCS).text)


def test_document_is_served_with_an_etag(client: FlaskClient) -> None:
    got = client.get(DOCUMENT)
    assert got.mimetype == "application/json"
    assert json_of(got)["openapi"].startswith("3.1.")
    assert got.headers["Cache-Control"] == "no-cache"
    again = client.get(DOCUMENT, headers={"If-None-Match": got.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")
    assert client.get(DOCUMENT).data == got.data


def test_page_allows_nothing_but_its_own_files(client: FlaskClient) -> None:
    page = client.get(DOCS)
    assert page.mimetype == "text/html"
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "://" not in policy
    assert "://" not in page.text
    assert not re.search(r"<script[^>]*>[^<]|style=|<style|\son\w+=", page.text)


def test_everything_that_the_page_names_is_there(client: FlaskClient) -> None:
    named = addresses(client)
    assert DOCUMENT in named
    types = {path.rpartition(".")[2]: client.get(path).mimetype for path in named}
    assert types == {
        "json": "application/json",
        "css": "text/css",
        "js": "text/javascript",
        "svg": "image/svg+xml",
    }


def test_files_may_be_kept_for_ever_since_their_address_changes_with_them(
    client: FlaskClient,
) -> None:
    files = [path for path in addresses(client) if path != DOCUMENT]
    assert len(files) == 4
    for path in files:
        asset = client.get(path)
        assert asset.status_code == 200
        assert {"max-age=31536000", "immutable", "public"} <= set(
            asset.headers["Cache-Control"].split(", ")
        )
        head = client.head(path)
        assert (head.status_code, head.data) == (200, b"")
        assert head.headers["Content-Length"] == str(len(asset.data))
        again = client.get(path, headers={"If-None-Match": asset.headers["ETag"]})
        assert again.status_code == 304


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.replace("/assets/", "/assets/0"),
        lambda path: path.replace("start.js", "nothing.js"),
        lambda path: path.replace("start.js", "..%2Fdocs.py"),
        lambda path: path.replace("start.js", "../docs.py"),
    ],
)
def test_nothing_else_is_served(client: FlaskClient, change: object) -> None:
    assert callable(change)
    [start] = [path for path in addresses(client) if path.endswith("start.js")]
    problem_of(client.get(change(start)), 404)


def test_root_leads_to_the_documentation(client: FlaskClient) -> None:
    got = client.get("/")
    assert (got.status_code, got.headers["Location"]) == (302, DOCS)
