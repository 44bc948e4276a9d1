"""The answer of an HTTP server on this machine to a probe."""

import http.client

SECONDS = 2.0


def is_ok(port: int, path: str) -> bool:
    """Return whether the server on this port of 127.0.0.1 answers 200 within two seconds."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
