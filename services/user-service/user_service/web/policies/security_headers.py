"""The headers that restrict browsers. Without Flask: the servers' own responses have them too.

They are the headers that OWASP's REST Security Cheat Sheet requires of an API, without two.
Strict-Transport-Security belongs to the gateway that terminates TLS, and Permissions-Policy has no
effect on JSON.
"""

HEADERS = (
    # Browsers must not take JSON for HTML or a script because of its content.
    ("X-Content-Type-Options", "nosniff"),
    # A response that a browser shows loads nothing, runs nothing, and is in no frame.
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
    # URLs contain ids and search terms. No link passes them on.
    ("Referrer-Policy", "no-referrer"),
    # No page of another origin embeds a response. CORS is not affected.
    ("Cross-Origin-Resource-Policy", "same-origin"),
)


def added_to(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return ``headers`` followed by those of HEADERS that they lack."""
    names = {name for name, _ in headers}
    return [*headers, *(header for header in HEADERS if header[0] not in names)]
