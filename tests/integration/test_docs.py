"""``/openapi.json`` and ``/docs``: what is served, and how it may be kept."""

import re

import pytest
from flask.testing import FlaskClient

from tests.responses import json_of, problem_of

DOCS = "/docs"
DOCUMENT = "/openapi.json"
TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


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


def test_page_allows_only_its_own_files(client: FlaskClient) -> None:
    page = client.get(DOCS)
    assert page.mimetype == "text/html"
    (policy,) = page.headers.getlist("Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "://" not in policy
    assert "://" not in page.text
    assert not re.search(r"<script[^>]*>[^<]|style=|<style|\son\w+=", page.text)


def test_files_named_by_the_page_may_be_kept_for_ever(client: FlaskClient) -> None:
    named = addresses(client)
    assert DOCUMENT in named
    assert len(named) == 5
    for path in {*named} - {DOCUMENT}:
        asset, head = client.get(path), client.head(path)
        assert (asset.status_code, asset.mimetype) == (200, TYPES[path.rpartition(".")[2]])
        assert {"max-age=31536000", "immutable", "public"} <= set(
            asset.headers["Cache-Control"].split(", ")
        )
        assert (head.status_code, head.data) == (200, b"")
        assert head.headers["Content-Length"] == str(len(asset.data))
        again = client.get(path, headers={"If-None-Match": asset.headers["ETag"]})
        assert again.status_code == 304


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("/assets/", "/assets/0"),
        *(("start.js", file) for file in ("nothing.js", "..%2Fdocs.py", "../docs.py")),
    ],
)
def test_nothing_else_is_served(client: FlaskClient, old: str, new: str) -> None:
    [start] = [path for path in addresses(client) if path.endswith("start.js")]
    problem_of(client.get(start.replace(old, new)), 404)
