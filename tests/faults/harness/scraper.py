"""Somebody who asks for ``/metrics`` all the time, and holds each answer against the one before."""

import threading
from contextlib import closing
from types import TracebackType
from typing import Self

import httpx

from tests import scrapes
from tests.faults.harness.clients import URL
from tests.faults.harness.operations import Operation

REQUESTS = "user_service_http_request_duration_seconds_count"


class Scraper:
    """Scrapes from the beginning of its block to the end; ``complaints`` are what was wrong."""

    def __init__(self, url: str, interval: float = 0.1) -> None:
        self.complaints: list[str] = []
        self.scrapes = 0
        self._url = url
        self._interval = interval
        self._last: dict[scrapes.Sample, float] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    def _work(self) -> None:
        # Each scrape on a connection of its own: any worker may be asked, also one that dies.
        with closing(httpx.Client(headers={"Connection": "close"}, timeout=10)) as client:
            while not self._over.wait(self._interval):
                try:
                    answer = client.get(f"{self._url}/metrics")
                except httpx.TransportError:
                    continue
                self._compare(answer)

    def _compare(self, answer: httpx.Response) -> None:
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
