"""Path parameters."""

from werkzeug.routing import BaseConverter, ValidationError

from user_service.web.schemas import BIGINT_MAX


class UserIdConverter(BaseConverter):
    """A user's id: a whole number that a bigint column can hold. Anything else is a 404."""

    regex = "[0-9]{1,19}"

    def to_python(self, value: str) -> int:
        """Return the id, or let the path match no route."""
        number = int(value)
        if number > BIGINT_MAX:
            raise ValidationError
        return number
