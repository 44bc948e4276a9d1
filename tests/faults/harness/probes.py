"""Probes beside the load, as a container runtime, a load balancer or Prometheus would send them."""

import threading
import time
from typing import Self

import httpx

from tests import scrapes


class Liveness:
    """Asks /health/live again and again during a ``with`` block, and keeps the longest answer."""

    def __init__(self, url: str, path: str = "/health/live") -> None:
        self.url = url + path
        self.longest = 0.0
        self.statuses: set[int] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._stop.wait(0.1):
            self.ask()

    def ask(self) -> None:
        began = time.monotonic()
        self.statuses.add(httpx.get(self.url, timeout=20).status_code)
        self.longest = max(self.longest, time.monotonic() - began)


class Scraper(Liveness):
    """Asks /metrics; ``complaints`` are faults of an answer, or in comparison with the last."""

    def __init__(self, url: str) -> None:
        super().__init__(url, "/metrics")
        self.complaints: list[str] = []
        self.scrapes = 0
        self._last: dict[scrapes.Sample, float] = {}

    def ask(self) -> None:
        # Each scrape on a connection of its own: any worker may be asked, also one that dies.
        try:
            answer = httpx.get(self.url, timeout=10)
        except httpx.TransportError:
            return
        if answer.status_code != 200:
            self.complaints.append(f"{answer.status_code} {answer.text[:200]}")
            return
        now = scrapes.samples(answer.text)  # raises on what Prometheus would not read
        self.complaints += scrapes.gone_backwards(self._last, now)
        self._last = now
        self.scrapes += 1
