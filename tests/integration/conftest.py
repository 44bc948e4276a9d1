"""Every response that an integration test gets is documented, and tells browsers what not to do."""

import io
import logging
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg2
import pytest
from flask.testing import FlaskClient
from psycopg2.extensions import cursor, parse_dsn
from werkzeug.test import TestResponse

from dev.servers import RedisServer
from tests.document_checker import DocumentChecker
from tests.faults.harness.standby import rows
from tests.integration.users import create
from tests.servers import Servers
from user_service.observability.logs import TextFormatter
from user_service.web.openapi.document import document
from user_service.web.policies.access import required_scope

# One for each set of routes and their scopes: a document costs some milliseconds.
document_checkers: dict[tuple[str | None, ...], DocumentChecker] = {}
PROTECTION = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@pytest.fixture(autouse=True)
def _responses_are_documented_and_protected(monkeypatch: pytest.MonkeyPatch) -> None:
    unchecked_open = FlaskClient.open

    def checked_open(client: FlaskClient, *args: Any, **kwargs: Any) -> TestResponse:
        response = unchecked_open(client, *args, **kwargs)
        app = client.application
        routes = tuple(required_scope(app, each.endpoint) for each in app.url_map.iter_rules())
        if routes not in document_checkers:
            document_checkers[routes] = DocumentChecker(document(app))
        document_checkers[routes].check(response)
        for name, value in PROTECTION.items():
            own = name == "Content-Security-Policy" and response.request.path == "/docs"
            assert own or response.headers.getlist(name) == [value]
        return response

    monkeypatch.setattr(FlaskClient, "open", checked_open)


@pytest.fixture
def ada(client: FlaskClient) -> TestResponse:
    """User 1, as she was created."""
    return create(client, "ada")


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[io.StringIO]:
    """Return the log of the service from INFO on, in its text format."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(TextFormatter())
    logger = logging.getLogger("user_service")
    caplog.set_level(logging.INFO, "user_service")
    logger.addHandler(handler)
    yield written
    logger.removeHandler(handler)


@pytest.fixture
def admin(servers: Servers, database_url: str) -> Iterator[cursor]:
    """A superuser's cursor on the database, beside the pool."""
    with closing(psycopg2.connect(servers.admin_url)) as connection:
        connection.autocommit = True
        yield connection.cursor()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that a test may stop and set up."""
    with RedisServer(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def dsn(servers: Servers) -> Iterator[str]:
    """The URL of an empty database, as its owner."""
    name = f"migrate_{uuid4().hex}"
    owner = parse_dsn(servers.owner_url)["user"]
    rows(servers.admin_url, f"CREATE DATABASE {name} OWNER {owner}")
    yield f"{servers.owner_url.rpartition('/')[0]}/{name}"
    rows(servers.admin_url, f"DROP DATABASE {name} WITH (FORCE)")
