"""What clients may send, and what they see."""

from marshmallow import Schema, fields, pre_load
from marshmallow.validate import Length, Range, Regexp

PRINTABLE = Regexp(r"[^\x00-\x1f\x7f]*\Z", error="must not contain control characters")


class AsItIs(fields.Field):
    """A time left as it is: orjson writes it as ISO 8601 with its offset."""


class UserSchema(Schema):
    """A user as it is sent in either direction."""

    id = fields.Integer(dump_only=True)
    username = fields.String(required=True, validate=[Length(min=3, max=50), PRINTABLE])
    email = fields.Email(required=True, validate=Length(max=255))
    created_at = AsItIs(dump_only=True)
    updated_at = AsItIs(dump_only=True)

    @pre_load
    def trim(self, data: dict[str, object], **_: object) -> dict[str, object]:
        """Take away white space around what was sent."""
        if not isinstance(data, dict):
            return data
        return {
            name: value.strip() if isinstance(value, str) else value for name, value in data.items()
        }


class ListQuerySchema(Schema):
    """Which page of the list."""

    page = fields.Integer(load_default=1, validate=Range(min=1, max=2**56))
    per_page = fields.Integer(load_default=50, validate=Range(min=1))
