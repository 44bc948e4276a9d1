"""Every response that an integration test gets is held against the OpenAPI document."""

from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.document_checker import DocumentChecker
from user_service.web.openapi import document

unchecked_open = FlaskClient.open


@pytest.fixture(scope="session", autouse=True)
def _responses_are_documented() -> Iterator[None]:
    checkers: dict[int, DocumentChecker] = {}

    def checked_open(client: FlaskClient, *args: Any, **kwargs: Any) -> TestResponse:
        response = unchecked_open(client, *args, **kwargs)
        routes = len(list(client.application.url_map.iter_rules()))
        if routes not in checkers:  # a document costs some milliseconds, and they are all alike
            checkers[routes] = DocumentChecker(document(client.application))
        checkers[routes].check(response)
        return response

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FlaskClient, "open", checked_open)
        yield
