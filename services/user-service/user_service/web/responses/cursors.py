"""Cursors: a position in a list as one opaque word, which clients return but cannot make.

A cursor belongs to the list that it comes from, with its order and filters: in another list it
would point nowhere. So the signature covers the name of the list, and the content of a cursor with
a valid signature needs no further checks.
"""

import base64
import hashlib
import secrets
from collections.abc import Callable
from datetime import datetime

import orjson

from user_service.domain.positions import Position, Side
from user_service.errors import InvalidInput

# A cursor is part of a URL. A tag of 128 bits is short and cannot be guessed.
TAG_BYTES = 16

_TIMES = {"created_at", "-created_at", "updated_at", "-updated_at"}


class Cursors:
    """Encodes and decodes cursors, signed with BLAKE2b (RFC 7693) in its keyed mode."""

    def __init__(self, key: Callable[[], bytes]) -> None:
        """``key`` returns the secret. The first cursor calls it."""
        self._ask_for_key = key
        self._key: bytes | None = None

    def encode(self, position: Position | None, list_name: str) -> str | None:
        """Return the cursor of ``position`` in a list; None if there is no position."""
        if position is None:
            return None
        content = orjson.dumps([position.side, position.value, position.id])
        return _to_text(self._tag(content, list_name) + content)

    def decode(self, text: str, list_name: str, sort: str) -> Position:
        """Return the position; raise InvalidInput if the cursor is not one of this list."""
        signed = _to_bytes(text)
        tag, content = signed[:TAG_BYTES], signed[TAG_BYTES:]
        if not secrets.compare_digest(tag, self._tag(content, list_name)):
            raise InvalidInput(
                {"cursor": "must be one that a page with the same sort and filters gave"}
            )
        side, value, user_id = orjson.loads(content)
        if sort in _TIMES and isinstance(value, str):
            value = datetime.fromisoformat(value)
        return Position(Side(side), value, user_id)

    def _tag(self, content: bytes, list_name: str) -> bytes:
        # No cached_property: before Python 3.12, that holds a lock while the database is asked.
        if self._key is None:  # the secret, in the length that BLAKE2b takes
            self._key = hashlib.blake2b(self._ask_for_key()).digest()
        # JSON contains no line break, so no other pair of content and list has the same bytes.
        signed = content + b"\n" + list_name.encode()
        return hashlib.blake2b(signed, key=self._key, digest_size=TAG_BYTES).digest()


def _to_text(signed: bytes) -> str:
    return base64.urlsafe_b64encode(signed).rstrip(b"=").decode()


def _to_bytes(text: str) -> bytes:
    """Return the bytes of a cursor; none if ``text`` is no cursor in its only valid spelling."""
    try:
        signed = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        return b""
    return signed if _to_text(signed) == text else b""
