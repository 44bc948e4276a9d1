"""The ``Idempotency-Key`` header."""

import re

from pydantic import BaseModel
from werkzeug.datastructures import Headers

from user_service.domain.idempotency import KeyedRequest, fingerprint
from user_service.errors import InvalidInput
from user_service.security import principal

# A string with parameters, which have no meaning here (RFC 9651, sections 3.1.2 and 3.3.3).
# Servers join repeated header lines by commas, so no comma may be part of it.
_STRING = r'"((?:[ !#-+\--\[\]-~]|\\["\\])*)"'
_PARAMETER = (
    r"; *[a-z*][a-z0-9_.*-]*"
    rf"(?:=(?:{_STRING}|%{_STRING}|[A-Za-z*][!#-'*+\-.^-z|~0-9A-Z:/]*"
    r"|@?-?[0-9]{1,15}(?:\.[0-9]{1,3})?|:[A-Za-z0-9+/=]*:|\?[01]))?"
)
_ITEM = re.compile(rf" *{_STRING}(?:{_PARAMETER})* *")
# The same without quotation marks.
_BARE = re.compile(r"([!#-+\--\[\]-~]+)")
_MAX_LENGTH = 255


def keyed_request(headers: Headers, route: str, body: BaseModel) -> KeyedRequest | None:
    """Return the request's identity if its client gave it a key, or None.

    Raise InvalidInput naming the header.
    """
    header = headers.get("Idempotency-Key")
    if header is None:
        return None
    match = _ITEM.fullmatch(header) or _BARE.fullmatch(header)
    key = re.sub(r"\\(.)", r"\1", match[1]) if match else ""
    if not 1 <= len(key) <= _MAX_LENGTH:
        rule = f"must be one string of 1 to {_MAX_LENGTH} ASCII characters"
        raise InvalidInput({"Idempotency-Key": rule})
    # Without defaults: a key outlives a release, and the next one may have further members.
    digest = fingerprint(body.model_dump(mode="json", exclude_defaults=True))
    return KeyedRequest(key, route, digest, principal.current_name())
