"""The converters of path parameters."""

from types import MappingProxyType

from werkzeug.exceptions import NotFound
from werkzeug.routing import BaseConverter

from user_service.web.requests.fields import BIGINT_MAX


class UserIdConverter(BaseConverter):
    """A user's id: a whole number that a bigint column can hold. Anything else is a 404."""

    regex = "[0-9]{1,19}"
    # For the OpenAPI document, with its JSON schema.
    description = "id of the user, like `1`"
    schema = MappingProxyType(
        {"type": "integer", "format": "int64", "minimum": 1, "maximum": BIGINT_MAX}
    )

    def to_python(self, value: str) -> int:
        """Return the id, or raise NotFound: not matching would be a 405 for most methods."""
        number = int(value)
        if number > BIGINT_MAX:
            raise NotFound
        return number
