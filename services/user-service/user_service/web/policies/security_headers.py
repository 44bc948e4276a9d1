"""What browsers are told not to do with our responses. No Flask: the worker imports it too.

The headers are those that OWASP's REST Security Cheat Sheet asks of an API, but for two: HTTPS for
good (Strict-Transport-Security) is for whoever ends TLS to promise, and a policy for the features
of a page (Permissions-Policy) says nothing about JSON, which is none.
"""

from operator import itemgetter

HEADERS = (
    # JSON is JSON, whatever a browser finds in it that looks like HTML or a script.
    ("X-Content-Type-Options", "nosniff"),
    # If it is shown after all: it loads nothing, runs nothing, and stands in nobody's frame.
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
    # Addresses here hold ids and search terms; no link passes them on.
    ("Referrer-Policy", "no-referrer"),
    # No page of another origin may embed it. Scripts of CORS_ORIGINS ask by CORS, which this
    # header is not consulted for.
    ("Cross-Origin-Resource-Policy", "same-origin"),
)

_name = itemgetter(0)
_NAMES = frozenset(map(_name, HEADERS))


def added_to(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return ``headers`` with HEADERS after them, but for those that they have already."""
    if _NAMES.isdisjoint(map(_name, headers)):
        return [*headers, *HEADERS]
    names = {name for name, _ in headers}
    return headers + [header for header in HEADERS if header[0] not in names]
