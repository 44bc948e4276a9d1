"""Every response that an integration test gets is held against the OpenAPI document."""

import io
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app import create_app
from tests.document_checker import DocumentChecker
from tests.responses import Serve
from user_service.observability.logs import TextFormatter
from user_service.settings import Settings
from user_service.web.openapi.document import document
from user_service.web.services import services_of


@pytest.fixture(scope="session")
def document_checkers() -> dict[int, DocumentChecker]:
    """A checker for each set of routes, by its size: a document costs some milliseconds."""
    return {}


@pytest.fixture(autouse=True)
def _responses_are_documented(
    monkeypatch: pytest.MonkeyPatch, document_checkers: dict[int, DocumentChecker]
) -> None:
    unchecked_open = FlaskClient.open

    def checked_open(client: FlaskClient, *args: Any, **kwargs: Any) -> TestResponse:
        response = unchecked_open(client, *args, **kwargs)
        routes = len(list(client.application.url_map.iter_rules()))
        if routes not in document_checkers:
            document_checkers[routes] = DocumentChecker(document(client.application))
        document_checkers[routes].check(response)
        return response

    monkeypatch.setattr(FlaskClient, "open", checked_open)


@pytest.fixture
def serving(settings: Settings) -> Iterator[Serve]:
    """Return a function that makes a client of a service with settings of its own."""
    apps: list[Flask] = []

    def serve(**changed: object) -> FlaskClient:
        given = settings.model_dump(exclude_unset=True)
        apps.append(create_app(Settings.model_validate({**given, **changed})))
        return apps[-1].test_client()

    yield serve
    for app in apps:
        services_of(app).close()


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
