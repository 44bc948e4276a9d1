"""Project functions called for one request: ``python -m benchmarks.calls [--write]``.

Requests run in this process, through the WSGI application, on a real PostgreSQL and Redis. Counted
are the functions of services/user-service in the thread of the request, after a warm-up.
``--write`` puts the table into docs/design.md.
"""

import argparse
import itertools
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, Self

from werkzeug.test import Client

from benchmarks import documents
from benchmarks.load import USERS
from benchmarks.report import MISSING, table
from benchmarks.stand import Stand
from benchmarks.targets import SERVICE

STORED = 1_000
WARM_UP = 20
COUNTED = 9
LIMITS = {"cached page": 35, "uncached page": 90, "user by id": 40, "create": 80}
COMPREHENSIONS = {"<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>"}


class Count(NamedTuple):
    """The functions called for one request, and the number of their files."""

    calls: int
    files: int


class Counter:
    """Counts the calls of functions in ``folder`` by this thread; a context manager.

    The second step of a generator is not a call, and a comprehension is not a function.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = f"{folder}/"
        # The frames themselves: the address of a finished one may be that of the next.
        self._frames: set[FrameType] = set()

    def __enter__(self) -> Self:
        sys.setprofile(self._profile)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    @property
    def count(self) -> Count:
        """The count up to now."""
        files = {frame.f_code.co_filename for frame in self._frames}
        return Count(len(self._frames), len(files))

    def _profile(self, frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if (
            event == "call"
            and code.co_filename.startswith(self._folder)
            and code.co_name not in COMPREHENSIONS
        ):
            self._frames.add(frame)


def counts(client: Client) -> dict[str, Count]:
    """Return the median count of each kind of request to an application with ``STORED`` users."""
    numbers = itertools.count(1)

    def user() -> dict[str, str]:
        name = f"calls{next(numbers)}"
        return {"username": name, "email": f"{name}@example.com"}

    requests: dict[str, Callable[[], dict[str, Any]]] = {
        "cached page": lambda: {"path": f"{USERS}?page=2"},
        "uncached page": lambda: {"path": f"{USERS}?per_page=10&page={next(numbers)}"},
        "user by id": lambda: {"path": f"{USERS}/{next(numbers)}"},
        "create": lambda: {"method": "POST", "path": USERS, "json": user()},
        "update": lambda: {"method": "PUT", "path": f"{USERS}/{next(numbers)}", "json": user()},
    }
    return {kind: _median_count(client, request) for kind, request in requests.items()}


def _median_count(client: Client, request: Callable[[], dict[str, Any]]) -> Count:
    found = []
    for _ in range(WARM_UP + COUNTED):
        arguments = request()
        with Counter(SERVICE) as counter:
            response = client.open(**arguments)
        response.close()
        if response.status_code not in (200, 201):
            raise ValueError(f"{arguments}: {response.status}")
        found.append(counter.count)
    calls, files = zip(*found[WARM_UP:], strict=True)
    return Count(int(statistics.median(calls)), int(statistics.median(files)))


def measured_counts() -> dict[str, Count]:
    """Return the counts of the service on servers of its own."""
    sys.path.insert(0, str(SERVICE))
    from app import create_app  # noqa: PLC0415 -- found by the line before

    with (
        tempfile.TemporaryDirectory() as folder,
        Stand(Path(folder)) as stand,
        Path(os.devnull).open("w", encoding="utf-8") as log,
        redirect_stdout(log),
    ):
        os.environ |= stand.urls(STORED)
        return counts(Client(create_app()))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calls", description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the table into docs/design.md")
    options = parser.parse_args()
    rows = [
        [kind, str(count.calls), str(LIMITS.get(kind, MISSING)), str(count.files)]
        for kind, count in measured_counts().items()
    ]
    made = table(("request", "functions called", "limit", "in files"), rows)
    print(made)
    if options.write:
        documents.rewrite_all({"calls": made})


if __name__ == "__main__":
    main()
