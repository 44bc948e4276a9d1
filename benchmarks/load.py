"""Workloads, and the load that wrk and h2load (Debian's packages) make of them."""

import itertools
import json
import re
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

SCRIPT = Path(__file__).with_name("load.lua")
USERS = "/api/v1/users"
# The numbers of clients that targets are compared with.
FEW, CROWD = 10, 50
CLIENTS = (FEW, CROWD)
# A slow answer is measured and not a failure: the slowest target needs minutes.
TIMEOUT_SECONDS = 600
# 1,000 different lists: these many pages in each of these sizes, whose mean is 10.
PAGES = 200
PAGE_SIZES = range(8, 13)

_runs = itertools.count()


@dataclass(frozen=True, slots=True)
class Request:
    """A kind of request. ``load.lua`` explains {id}, {unique}, {page} and {size}."""

    path: str
    method: str = "GET"
    body: str = ""
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Workload:
    """The requests of one measurement.

    Every page is a miss in an ``uncached`` workload: the cache is emptied while it runs.
    A ``prepared`` path is requested once before the load.
    """

    name: str
    title: str
    requests: tuple[Request, ...]
    uncached: bool = False
    prepared: str | None = None


_FIRST_PAGE = f"{USERS}?page=1&per_page=10"
_ONE_USER = f"{USERS}/{{id}}"
_NEW_USER = json.dumps({"username": "{unique}", "email": "{unique}@example.com"})
# A new email address each time: equal values would change nothing.
_OTHER_EMAIL = json.dumps({"username": "User{id}", "email": "{unique}@example.com"})

CACHED = Workload("cached", "cached page", (Request(_FIRST_PAGE),), prepared=_FIRST_PAGE)
_ANY_PAGE = f"{USERS}?page={{page}}&per_page={{size}}"
UNCACHED = Workload("uncached", "uncached page", (Request(_ANY_PAGE),), uncached=True)
GET = Workload("get", "get by id", (Request(_ONE_USER),))
CREATE = Workload("create", "create", (Request(USERS, "POST", _NEW_USER),))
UPDATE = Workload("update", "update", (Request(_ONE_USER, "PUT", _OTHER_EMAIL),))
MIX = Workload(
    "mix",
    "mix, 90 % reads",
    (
        Request(_FIRST_PAGE, weight=45),
        Request(_ONE_USER, weight=45),
        Request(_ONE_USER, "PUT", _OTHER_EMAIL, weight=10),
    ),
    prepared=_FIRST_PAGE,
)
LIST = Workload("list", "list", (Request(USERS),), prepared=USERS)
WORKLOADS = (CACHED, UNCACHED, GET, CREATE, UPDATE, MIX)
TITLES = {workload.name: workload.title for workload in (*WORKLOADS, LIST)}


@dataclass(frozen=True, slots=True)
class Load:
    """Observations of wrk or h2load, which tells no percentiles.

    Connections that failed or broke, time-outs and statuses from 400 count as failed.
    """

    requests: int
    seconds: float
    p99_ms: float | None
    failed: int


def load(  # noqa: PLR0913 -- by name
    url: str,
    workload: Workload,
    *,
    users: int,
    clients: int,
    seconds: int,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> Load:
    """Send ``workload`` to ``url``; each client sends its next request after each answer.

    An ``https`` URL gets HTTP/2, with the first request of the workload alone.
    """
    if url.startswith("https:"):
        return _http2_load(url + workload.requests[0].path, clients, seconds)
    run = next(_runs)
    # The time makes names unique across runs, whose users may still be stored.
    tag = f"{time.time_ns() // 1_000_000:x}n{run}"
    pages = min(PAGES, max(1, users // PAGE_SIZES.stop))
    arguments = [users, tag, pages, PAGE_SIZES.start, len(PAGE_SIZES), run]
    for each in workload.requests:
        arguments += [each.weight, each.method, each.path, each.body]
    options = ["-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", f"{TIMEOUT_SECONDS}s"]
    options += [f"-H{name}: {value}" for name, value in headers.items()]
    command = ["wrk", *options, "-s", str(SCRIPT), url, "--", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        # The server accepts no connection.
        return Load(0, seconds, 0, failed=clients)
    report = json.loads(done.stdout.splitlines()[-1])
    failed = sum(report[kind] for kind in ("connect", "read", "write", "status", "timeout"))
    return Load(report["requests"], report["microseconds"] / 1e6, report["p99"] / 1000, failed)


def _http2_load(url: str, clients: int, seconds: int) -> Load:
    command = ["h2load", f"-c{clients}", "-m1", f"-D{seconds}", url]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    status = re.search(r"^status codes: (\d+) 2xx, (\d+) 3xx", done.stdout, re.MULTILINE)
    failed = re.search(r"(\d+) failed, (\d+) errored, (\d+) timeout", done.stdout)
    if done.returncode != 0 or status is None or failed is None:
        return Load(0, seconds, None, failed=clients)
    return Load(int(status[1]), seconds, None, sum(map(int, failed.groups())) + int(status[2]))
