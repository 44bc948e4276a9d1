"""Times as clients send them."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated

from pydantic import BeforeValidator, WithJsonSchema

# RFC 3339, section 5.6, and offsets without a colon. An offset of "+01:00" that was not
# percent-encoded has a space for the "+".
_DATE_TIME = (
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt]([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?"
    r"([Zz]|[-+ ]([01][0-9]|2[0-3]):?[0-5][0-9])"
)
_BELOW_MICROSECONDS = re.compile(r"\.[0-9]{6}[0-9]*[1-9]")
_EARLIEST, _LATEST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


def valid_time(text: object) -> datetime:
    """Return the time that ``text`` is, in UTC, or raise ValueError with the rule."""
    rule = "must be a time with its offset from UTC, like 2026-11-22T19:41:06Z"
    if not isinstance(text, str) or not re.fullmatch(_DATE_TIME, text):
        raise ValueError(rule)
    try:
        time = datetime.fromisoformat(text.upper().replace(" ", "+"))
    except ValueError:
        raise ValueError(rule) from None
    try:
        # Python cuts the digits below a microsecond off. The next microsecond is the same limit,
        # because no user was created or changed between the two.
        if _BELOW_MICROSECONDS.search(text):
            time += timedelta(microseconds=1)
        return time.astimezone(UTC)
    except OverflowError:  # within a day of the first or last time that Python knows
        return _EARLIEST if time.year == 1 else _LATEST


Time = Annotated[
    datetime,
    BeforeValidator(valid_time),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
