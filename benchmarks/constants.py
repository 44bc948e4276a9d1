"""Servers that do less than the service, under its own gunicorn settings: what that can reach."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import httpx

from benchmarks.bench import Bench
from benchmarks.measure import Server
from benchmarks.targets import TARGETS
from benchmarks.workloads import CACHED, Request, Workload

BARE = Path(__file__).with_name("bare")
_GUNICORN = ("{bin}/python", "-m", "gunicorn", "--pythonpath", str(BARE), "-c")
_BARE = (*_GUNICORN, str(BARE / "gunicorn.conf.py"))
COMMANDS: dict[str, Sequence[str]] = {
    "bare-wsgi": (*_BARE, "constants:wsgi"),
    "bare-flask": (*_BARE, "constants:flask"),
    "layered": (*_GUNICORN, "gunicorn.conf.py", "layered:app"),
}
CONSTANT = Workload("constant", "constant", (Request("/constant"),))


@contextmanager
def serving_constants(bench: Bench, ours: Server, names: Sequence[str]) -> Iterator[list[Server]]:
    """Serve these with bodies of the bytes that ``ours`` answers for a cached page of 10."""
    body = bench.stand.folder / "constant-body"
    body.write_bytes(httpx.get(ours.url + CACHED.path).content)
    environment = {**TARGETS["ours"].environment, "CONSTANT_BODY": str(body)}
    with ExitStack() as stack:
        servers = []
        for name in names:
            target = replace(
                TARGETS["ours"], name=name, command=COMMANDS[name], environment=environment
            )
            served = bench.serving(target, ours.database_url, ours.users)
            servers.append(stack.enter_context(served))
        yield servers
