"""One client that asks, and is answered before it asks again: what a single request takes."""

import http.client
import json
import statistics
import time
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from benchmarks.measure import Server
from benchmarks.processes import cpu_seconds
from benchmarks.workloads import Request


class Failed(Exception):
    """An answer was not a success: the figures of its round would be of something else."""


class Client:
    """A connection to a server, kept open. Before each request its Redis database is emptied."""

    def __init__(self, server: Server, *, emptying: bool) -> None:
        self._server = server
        self._emptying = emptying
        parts = urlsplit(server.url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
        self._took: list[float] = []
        self._cpu = 0.0

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def ask(self, request: Request) -> tuple[float, bytes]:
        """Return how long the answer took, in s, and its body; raise Failed if it is an error."""
        if self._emptying:
            self._server.redis.flushdb()
        headers = {"Content-Type": "application/json"} if request.body else {}
        began = time.perf_counter()
        self._connection.request(request.method, request.path, request.body or None, headers)
        answer = self._connection.getresponse()
        body = answer.read()
        took = time.perf_counter() - began
        if answer.status >= http.client.BAD_REQUEST:
            raise Failed(f"{request.method} {request.path}: {answer.status} {body[:200]!r}")
        return took, body

    def warm_up(self, requests: Iterable[Request]) -> None:
        """Ask for ``requests`` without counting them."""
        for request in requests:
            self.ask(request)

    def count(self, requests: Iterable[Request]) -> None:
        """Ask for ``requests``, one after the other, and count them in the figures."""
        cpu = cpu_seconds(self._server.process.pid)
        self._took += [self.ask(request)[0] for request in requests]
        self._cpu += cpu_seconds(self._server.process.pid) - cpu

    def figures(self) -> dict[str, float | None]:
        """Return median and 99th percentile in ms, and the CPU time of the server each in µs."""
        took = sorted(self._took)
        return {
            "p50_ms": statistics.median(took) * 1000,
            "p99_ms": took[int(len(took) * 0.99)] * 1000,
            "cpu_us": self._cpu / len(took) * 1e6,
        }

    def json(self, path: str) -> dict[str, Any]:
        """Return the JSON object at ``path``."""
        answer: dict[str, Any] = json.loads(self.ask(Request(path))[1])
        return answer
