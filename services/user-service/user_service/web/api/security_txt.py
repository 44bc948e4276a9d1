"""Where to report a vulnerability: ``/.well-known/security.txt`` (RFC 9116), if there is a contact.

Off unless SECURITY_CONTACT is set; then there is no such route.
"""

from datetime import UTC, datetime, timedelta

from flask import Flask, Response

from user_service.web.openapi.operations import undocumented

# The RFC advises less than a year. From the start of the process: whoever deploys the service
# vouches for the address, and one that nobody has deployed for long may be out of date.
VALID = timedelta(days=180)


def register_contact(app: Flask, contact: str | None) -> None:
    """Serve ``contact``, a URI, if there is one."""
    if contact is None:
        return
    expires = (datetime.now(UTC) + VALID).strftime("%Y-%m-%dT%H:%M:%SZ")
    text = f"Contact: {contact}\nExpires: {expires}\n"

    @app.get("/.well-known/security.txt")
    @undocumented("RFC 9116 says what it is")
    def security_txt() -> Response:
        return Response(text, mimetype="text/plain")
