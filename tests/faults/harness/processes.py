"""What a process holds: threads, open files, connections and memory, as /proc shows them."""

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Footprint:
    """One process at one moment. ``files`` are those that are no connection of a known port.

    Nor ``others``: sockets that lead nowhere. Of a socket that the other end has reset, the kernel
    does not say any more where it led; a pool keeps it until it is its turn to be used.
    """

    threads: int
    files: int
    others: int
    memory_mb: float
    connections: dict[int, int]  # by that port, on whichever side it is


def children(pid: int) -> list[int]:
    """Return the processes that ``pid`` has started and that live: gunicorn's workers."""
    while True:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread ended: another has its own
            started = [(thread / "children").read_text().split() for thread in threads]
            return sorted(int(child) for each in started for child in each)


def footprint(pid: int, ports: tuple[int, ...]) -> Footprint:
    """Return what ``pid`` holds; connections of one of ``ports`` are counted by themselves."""
    status = dict(
        line.split(":\t", 1)
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if ":\t" in line
    )
    ports_of = _ports(pid)
    files, others, connections = 0, 0, Counter[int]()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(entry.readlink())
        except FileNotFoundError:
            continue
        inode = target.removeprefix("socket:[").removesuffix("]")
        known = [port for port in ports_of.get(inode, ()) if port in ports]
        connections.update(known)
        leads_nowhere = target.startswith("socket:") and inode not in ports_of
        others += leads_nowhere
        files += not known and not leads_nowhere
    memory = int(status["VmRSS"].split()[0]) / 1024
    return Footprint(int(status["Threads"]), files, others, memory, dict(connections))


def _ports(pid: int) -> dict[str, tuple[int, int]]:
    """Return the local and the remote port of each TCP connection of the machine by its inode."""
    ports = {}
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        columns = line.split()
        local, remote = (int(column.rpartition(":")[2], 16) for column in columns[1:3])
        ports[columns[9]] = (local, remote)
    return ports
