"""``/.well-known/security.txt`` (RFC 9116): the contact for reports of vulnerabilities.

Without SECURITY_CONTACT there is no such route.
"""

from datetime import UTC, datetime, timedelta

from flask import Flask, Response

from user_service.web.openapi.operations import undocumented
from user_service.web.policies.access import open_to_all

# The RFC advises less than a year. The time runs from the start of the process: a deployment
# confirms the address, and an old deployment may have an outdated one.
VALID = timedelta(days=180)


def register_security_txt(app: Flask, contact: str | None) -> None:
    """Serve ``contact``, a URI, if there is one."""
    if contact is None:
        return
    expires = (datetime.now(UTC) + VALID).strftime("%Y-%m-%dT%H:%M:%SZ")
    text = f"Contact: {contact}\nExpires: {expires}\n"

    @app.get("/.well-known/security.txt")
    @open_to_all
    @undocumented("RFC 9116 defines it")
    def security_txt() -> Response:
        return Response(text, mimetype="text/plain")
