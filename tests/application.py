"""The service within the process of a test, which stands for one of several processes."""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from unittest.mock import patch

from flask.testing import FlaskClient

from app import create_app
from user_service.settings import Settings
from user_service.web.services import services_of


@contextmanager
def serving(settings: Settings, **changed: object) -> Iterator[FlaskClient]:
    """Serve with some settings changed, and close everything after the block."""
    given = settings.model_dump(exclude_unset=True)
    application = create_app(Settings.model_validate({**given, **changed}))
    with closing(services_of(application)):
        yield application.test_client()


@contextmanager
def serving_environment(**variables: str) -> Iterator[FlaskClient]:
    """Serve with the settings of an environment that has only these ``variables``."""
    with patch.dict(os.environ, variables, clear=True):
        application = create_app()
        with closing(services_of(application)):
            yield application.test_client()
