"""Reads the key set of an issuer: from its metadata, from a URL, or from a file."""

import hashlib
import logging
import re
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path

import orjson

from user_service.errors import Unavailable
from user_service.resilience.background import in_background
from user_service.security.key_policy import SigningKey, acceptable_keys
from user_service.security.principal import Principal

# Seconds after which a key set is read again, if requests come.
REFRESH_SECONDS = 300.0
METADATA = "/.well-known/openid-configuration"
# Seconds for each step of a fetch, and for all of it: an issuer may send one byte a second.
STEP_SECONDS, FETCH_SECONDS = 3.0, 8.0
MAX_BYTES = 256 * 1024
# As in AUTH_JWKS_URL: keys need TLS, except on this machine.
_SECURE_URL = re.compile(r"(https://|http://(localhost|127\.0\.0\.1|\[::1\])[:/])[!-?A-~]+")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class KeySet:
    """The acceptable keys of an issuer by ``kid``. Sets from the same document are equal.

    ``verified`` has the principal and the expiry of tokens that these keys have verified, by the
    tokens' SHA-256. It ends with the set, so a withdrawn key takes its tokens along.
    """

    document: bytes
    keys: Mapping[str | None, SigningKey] = field(compare=False)
    verified: dict[bytes, tuple[Principal, float]] = field(compare=False, default_factory=dict)

    def named(self, kid: object) -> SigningKey | None:
        """Return the key; without a name the only one (OpenID Connect Core, section 10.1)."""
        if kid is None and len(self.keys) == 1:
            return next(iter(self.keys.values()))
        return self.keys.get(kid) if isinstance(kid, str | None) else None


def read_key_set(path: Path, algorithms: Sequence[str]) -> KeySet:
    """Return the key set in a file; raise Unavailable if there is none."""
    try:
        return parse_key_set(path.read_bytes(), algorithms)
    except OSError as error:
        raise Unavailable(f"AUTH_JWKS_FILE cannot be read: {error.strerror}") from error


_fetches: dict[str, Future[bytes]] = {}


def fetch_key_set(issuer: str, url: str | None, algorithms: Sequence[str]) -> KeySet:
    """Return the key set at ``url``, by default the one that the issuer's metadata names.

    Raise Unavailable if a document cannot be had, or has no acceptable key.
    """
    return parse_key_set(fetch(url or _jwks_uri(issuer)), algorithms)


def parse_key_set(document: bytes, algorithms: Sequence[str]) -> KeySet:
    """Return the acceptable keys of ``document``; raise Unavailable if there are none."""
    accepted, refused = acceptable_keys(_parsed(document), algorithms)
    if not accepted:
        raise Unavailable(f"the key set has no acceptable key: {'; '.join(refused[:5])}")
    for reason in refused:
        log.debug("key of the issuer refused: %s", reason)
    return KeySet(hashlib.sha256(document).digest(), accepted)


def fetch(url: str) -> bytes:
    """Return the body of a 200 without a redirect; raise Unavailable for anything else."""
    # One that takes longer cannot be stopped: the next call waits for it instead of adding another.
    fetching = _fetches.get(url)
    if fetching is None or fetching.done():
        fetching = _fetches[url] = in_background(partial(_body_of, url))
    try:
        return fetching.result(FETCH_SECONDS)
    except TimeoutError:
        raise Unavailable("the issuer's answer takes too long") from None


def _body_of(url: str) -> bytes:
    # A proxy would send what needs no TLS on this machine to another one.
    proxies = [] if url.startswith("https:") else [urllib.request.ProxyHandler({})]
    opener = urllib.request.build_opener(_NoRedirects, *proxies)
    try:
        with opener.open(url, timeout=STEP_SECONDS) as response:
            if response.status != HTTPStatus.OK:
                raise Unavailable(f"the issuer answered {response.status}")
            body, until = b"", time.monotonic() + FETCH_SECONDS
            while len(body) <= MAX_BYTES and (part := response.read1(MAX_BYTES)):
                body += part
                if time.monotonic() > until:
                    raise Unavailable("the issuer's answer takes too long")
    except urllib.error.HTTPError as error:
        error.close()
        raise Unavailable(f"the issuer answered {error.code}") from error
    except (OSError, HTTPException, ValueError) as error:
        raise Unavailable(f"the issuer cannot be reached: {error}") from error
    if len(body) > MAX_BYTES:
        raise Unavailable("the issuer's answer is too long")
    return body


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Makes a redirect an error: keys come from the configured origin."""

    def redirect_request(self, *_: object, **__: object) -> None:
        """Return no request to follow."""


def _jwks_uri(issuer: str) -> str:
    metadata = _parsed(fetch(issuer.removesuffix("/") + METADATA))
    if not isinstance(metadata, dict) or metadata.get("issuer") != issuer:
        raise Unavailable("the metadata is not that of AUTH_ISSUER")
    uri = metadata.get("jwks_uri")
    if not isinstance(uri, str) or not _SECURE_URL.fullmatch(uri):
        raise Unavailable("the metadata has no secure jwks_uri")
    return uri


def _parsed(document: bytes) -> object:
    try:
        return orjson.loads(document)
    except orjson.JSONDecodeError:
        raise Unavailable("the issuer's document is not JSON") from None
