"""A scraper of ``/metrics`` that holds each answer against the one before."""

import httpx

from tests import scrapes
from tests.faults.harness.clients import URL
from tests.faults.harness.liveness import Probe
from tests.faults.harness.operations import Operation

REQUESTS = "user_service_http_request_duration_seconds_count"


class Scraper(Probe):
    """``complaints`` are what was wrong with the answers."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.complaints: list[str] = []
        self.scrapes = 0
        self._url = url
        self._last: dict[scrapes.Sample, float] = {}

    def ask(self) -> None:
        # Each scrape on a connection of its own: any worker may be asked, also one that dies.
        try:
            answer = httpx.get(f"{self._url}/metrics", timeout=10)
        except httpx.TransportError:
            return
        if answer.status_code != 200:
            self.complaints.append(f"{answer.status_code} {answer.text[:200]}")
            return
        now = scrapes.samples(answer.text)  # raises on what Prometheus would not read
        self.complaints += scrapes.gone_backwards(self._last, now)
        self._last = now
        self.scrapes += 1


def uncounted(url: str, operations: list[Operation]) -> int:
    """Return how many requests were answered and yet are not counted."""
    answered = sum(each.status is not None for each in list(operations))
    exposition = httpx.get(f"{url}/metrics", timeout=10).text
    routes = (URL, f"{URL}/<user_id:user_id>")
    counted = sum(scrapes.total(exposition, REQUESTS, route=route) for route in routes)
    return max(0, answered - int(counted))
