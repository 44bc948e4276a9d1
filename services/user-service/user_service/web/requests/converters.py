"""The converters of path parameters."""

from types import MappingProxyType

from werkzeug.exceptions import NotFound
from werkzeug.routing import BaseConverter

from user_service.web.requests.fields import BIGINT_MAX


class UserIdConverter(BaseConverter):
    """A user's id: a whole number that fits into a bigint column. Any other path is a 404."""

    regex = "[0-9]{1,19}"
    # For the OpenAPI document.
    description = "id of the user"
    schema = MappingProxyType(
        {"type": "integer", "format": "int64", "minimum": 1, "maximum": BIGINT_MAX, "examples": [1]}
    )

    def to_python(self, value: str) -> int:
        """Return the id, or raise NotFound.

        A converter that does not match would lead to a 405 for most methods.
        """
        number = int(value)
        if number > BIGINT_MAX:
            raise NotFound
        return number
