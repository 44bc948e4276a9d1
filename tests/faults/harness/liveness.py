"""A probe beside the load, as a container runtime or a load balancer would send it."""

import threading
import time

import httpx


class Liveness:
    """Asks /health/live again and again beside the load, and keeps the longest answer."""

    def __init__(self, url: str, path: str = "/health/live") -> None:
        self.url = url + path
        self.longest = 0.0
        self.statuses: set[int] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> "Liveness":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _ask(self) -> None:
        while not self._stop.wait(0.1):
            began = time.monotonic()
            self.statuses.add(httpx.get(self.url, timeout=20).status_code)
            self.longest = max(self.longest, time.monotonic() - began)
