"""Probes beside the load, as a container runtime, a load balancer or Prometheus would send them."""

import threading
import time
from abc import ABC, abstractmethod
from typing import Self

import httpx


class Probe(ABC):
    """Asks again and again in a thread, from the beginning of its block to the end."""

    def __init__(self) -> None:
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

    @abstractmethod
    def ask(self) -> None:
        """Ask once."""


class Liveness(Probe):
    """Asks /health/live, and keeps the longest answer."""

    def __init__(self, url: str, path: str = "/health/live") -> None:
        super().__init__()
        self.url = url + path
        self.longest = 0.0
        self.statuses: set[int] = set()

    def ask(self) -> None:
        began = time.monotonic()
        self.statuses.add(httpx.get(self.url, timeout=20).status_code)
        self.longest = max(self.longest, time.monotonic() - began)
