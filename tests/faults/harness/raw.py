"""HTTP written by hand, for requests that no HTTP library would send."""

import json
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tests.faults.harness.credentials import HEADERS


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """One response as it came over the wire."""

    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.content)

    @property
    def problem(self) -> str:
        """Return why this is not a well-formed problem, or nothing."""
        if self.headers.get("content-type") != "application/problem+json":
            return f"{self.status} is not a problem: {self.content[:100]!r}"
        if self.body["status"] != self.status or not self.body["detail"]:
            return f"{self.status} is an odd problem: {self.content[:100]!r}"
        return ""


def head(method: str, path: str, headers: Iterable[tuple[str, str]] = ()) -> bytes:
    """Return the head of a request, whatever is in its parts."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
    lines += [f"{name}: {value}" for name, value in [*HEADERS.items(), *headers]]
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogatepass")


def chunked(data: bytes, size: int = 1000) -> bytes:
    """Return ``data`` in the chunked transfer coding."""
    parts = [data[start : start + size] for start in range(0, len(data), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def exchange(port: int, *parts: bytes, timeout: float = 10) -> list[RawAnswer]:
    """Send ``parts``, end our side, and return every response until the server ends its own."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as connection:
        received = b""
        try:
            for part in parts:
                connection.sendall(part)
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it has heard enough; what it said may still be there
        try:
            while data := connection.recv(65536):
                received += data
        except ConnectionResetError:
            pass
    return answers(received)


def answers(received: bytes) -> list[RawAnswer]:
    """Return the responses in ``received``, all of which have a Content-Length (or 204)."""
    found = []
    while received:
        top, _, rest = received.partition(b"\r\n\r\n")
        first, *lines = top.decode("latin-1").split("\r\n")
        fields = (line.partition(":") for line in lines)
        headers = {name.lower(): value.strip() for name, _, value in fields}
        length = int(headers.get("content-length", 0))
        found.append(RawAnswer(int(first.split()[1]), headers, rest[:length]))
        received = rest[length:]
    return found
