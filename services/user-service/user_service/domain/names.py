"""The rules of usernames and e-mail addresses: validation and canonical forms.

A name is stored as the client sent it and compared in canonical form, so ``Ada``, ``ada`` and the
full-width ``ａｄａ`` are one name. The canonical form is Unicode's compatibility caseless match
(The Unicode Standard, section 3.13, definition D146).
"""

import re
import string
import unicodedata
from functools import lru_cache
from typing import Annotated

from email_validator import EmailNotValidError, validate_email
from pydantic import AfterValidator, WithJsonSchema

USERNAME_MIN_LENGTH = 3
USERNAME_MAX_LENGTH = 50
EMAIL_MAX_LENGTH = 255

# Control, format (bidirectional marks, zero-width joiners), surrogate, private use and unassigned
# characters, line and paragraph separators.
_INVISIBLE_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
# Invisible letters and marks: Hangul fillers, the grapheme joiner, variation selectors. Unicode
# lists them as Default_Ignorable_Code_Point, but their categories are those of visible characters.
_DEFAULT_IGNORABLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
# Letters and symbols without ink: the empty Braille cell, the placeholder of embedded objects, the
# Egyptian blanks and the notehead that is null.
_BLANK = frozenset("\u2800\ufffc\U00013441\U00013442\U0001d159")


def valid_text(text: str, shortest: int, longest: int) -> str:
    """Return ``text`` without surrounding white space, or raise ValueError with the rule."""
    trimmed = text.strip()
    if not shortest <= len(trimmed) <= longest:
        raise ValueError(f"must have {shortest} to {longest} characters after trimming")
    _refuse_invisible(trimmed)
    _require_visible(trimmed)
    return trimmed


def valid_username(text: str) -> str:
    """Return ``text`` without surrounding white space, or raise ValueError with the rule."""
    name = valid_text(text, USERNAME_MIN_LENGTH, USERNAME_MAX_LENGTH)
    canonical = canonical_username(name)
    _require_visible(canonical)
    if canonical != canonical.strip():
        raise ValueError("must not begin or end with a space in canonical form")
    if not USERNAME_MIN_LENGTH <= len(canonical) <= USERNAME_MAX_LENGTH:
        raise ValueError(
            f"must have {USERNAME_MIN_LENGTH} to {USERNAME_MAX_LENGTH} characters in canonical form"
        )
    return name


def valid_email(text: str) -> str:
    """Return ``text`` without surrounding white space, or raise ValueError with the rule."""
    address = text.strip()
    if len(address) > EMAIL_MAX_LENGTH:
        raise ValueError(f"must have at most {EMAIL_MAX_LENGTH} characters")
    _refuse_invisible(address)
    if not _is_address(address):
        raise ValueError("must be an email address, like ada@example.com")
    _require_visible(address.rpartition("@")[0])
    return address


def valid_prefix(text: str) -> str:
    """Return ``text``, the beginning of a name or address, or raise ValueError with the rule."""
    if not 1 <= len(text) <= EMAIL_MAX_LENGTH:
        raise ValueError(f"must have 1 to {EMAIL_MAX_LENGTH} characters")
    _refuse_invisible(text)
    return text


def canonical_username(username: str) -> str:
    """Return the form in which usernames, local parts and beginnings of both are compared."""
    folded = unicodedata.normalize("NFD", username).casefold()
    folded = unicodedata.normalize("NFKC", folded).casefold()
    return unicodedata.normalize("NFKC", folded)


# A write needs it twice: to validate the address, and to store it.
@lru_cache(maxsize=128)
def canonical_email(email: str) -> str:
    """Return the form in which addresses are compared, with the domain in ASCII (IDNA).

    Raise EmailNotValidError if ``email`` is no address.
    """
    parsed = validate_email(email, check_deliverability=False)
    return f"{canonical_username(parsed.local_part)}@{parsed.ascii_domain.lower()}"


def canonical_email_prefix(prefix: str) -> str:
    """Return the form in which beginnings are compared with canonical addresses.

    Complete labels of a domain are in ASCII (IDNA), as in canonical addresses.
    """
    local_part, at, domain = prefix.rpartition("@")
    if not at or domain.isascii():
        return canonical_username(prefix)
    labels = ".".join(map(_ascii_label, domain.split(".")))
    return f"{canonical_username(local_part)}@{labels}"


def _ascii_label(label: str) -> str:
    try:
        parsed = validate_email(f"a@{label}.example", check_deliverability=False)
    except EmailNotValidError:
        return canonical_username(label)
    return parsed.ascii_domain.removesuffix(".example").lower()


def _is_address(text: str) -> bool:
    """Tell whether ``text`` is an address, and its canonical form is one of the same form.

    A full-width "＠" or "．", or a leader for a dot, would otherwise turn into punctuation with a
    meaning.
    """
    try:
        canonical = canonical_email(text)
        is_stable = canonical_email(canonical) == canonical
    except EmailNotValidError:
        return False
    return canonical == text or (is_stable and _structure(text) == _structure(canonical))


def _structure(address: str) -> tuple[list[str], int]:
    """Return the punctuation of the local part, and the number of the domain's dots."""
    local_part, _, domain = address.rpartition("@")
    return [c for c in local_part if c in string.punctuation], domain.count(".")


def _refuse_invisible(text: str) -> None:
    categories = {unicodedata.category(character) for character in text}
    if categories & _INVISIBLE_CATEGORIES or _DEFAULT_IGNORABLE.search(text):
        raise ValueError("must not contain control, invisible or unassigned characters")


def _require_visible(text: str) -> None:
    """Refuse text of nothing but spaces, combining marks and blanks."""
    if not any(unicodedata.category(c)[0] in "LNPS" and c not in _BLANK for c in text):
        raise ValueError("must contain a visible character")


# The lengths count after trimming, which only a pattern can express. No pattern can tell visible
# characters, or the form of an address: `format` stands for these rules.
_USERNAME = rf"^\s*\S.{{{USERNAME_MIN_LENGTH - 2},{USERNAME_MAX_LENGTH - 2}}}\S\s*$"
_EMAIL = rf"^\s*\S{{3,{EMAIL_MAX_LENGTH}}}\s*$"

# The types of members of users: the rule, and the schemas of requests and of responses.
Username = Annotated[
    str,
    AfterValidator(valid_username),
    WithJsonSchema(
        {"type": "string", "format": "username", "pattern": _USERNAME}, mode="validation"
    ),
    WithJsonSchema(
        {"type": "string", "minLength": USERNAME_MIN_LENGTH, "maxLength": USERNAME_MAX_LENGTH},
        mode="serialization",
    ),
]
Email = Annotated[
    str,
    AfterValidator(valid_email),
    WithJsonSchema({"type": "string", "format": "idn-email", "pattern": _EMAIL}, mode="validation"),
    WithJsonSchema({"type": "string", "maxLength": EMAIL_MAX_LENGTH}, mode="serialization"),
]
