"""``python -m dev.openapi`` prints the OpenAPI document of the service, which needs no servers."""

import sys

import orjson
from pydantic import SecretStr

from app import create_app
from user_service.settings import Settings
from user_service.web.openapi.document import document


def main() -> None:
    """Print the document of a service with default settings."""
    app = create_app(Settings(database_url=SecretStr("postgresql://users@localhost/users")))
    sys.stdout.buffer.write(orjson.dumps(document(app), option=orjson.OPT_INDENT_2))


if __name__ == "__main__":
    main()
