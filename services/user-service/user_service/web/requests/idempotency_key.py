"""The ``Idempotency-Key`` header."""

import re

from pydantic import BaseModel
from werkzeug.datastructures import Headers

from user_service.domain.idempotency import KeyedRequest, fingerprint
from user_service.errors import InvalidInput

# A structured field string (RFC 8941), as the draft has it, or the same without quotation marks.
_KEY = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,255}")


def keyed_request(headers: Headers, route: str, body: BaseModel) -> KeyedRequest | None:
    """Return the request's identity if its client gave it a key, or None.

    Raise InvalidInput naming the header.
    """
    header = headers.get("Idempotency-Key")
    if header is None:
        return None
    quoted = len(header) > 1 and header.startswith('"') and header.endswith('"')
    key = header[1:-1] if quoted else header
    if not _KEY.fullmatch(key):
        rule = "must have 1 to 255 visible ASCII characters, without quotation marks"
        raise InvalidInput({"Idempotency-Key": rule})
    # Without defaults: a key outlives a release, and the next one may have further members.
    return KeyedRequest(key, route, fingerprint(body.model_dump(exclude_defaults=True)))
