"""What a process holds: threads, open files, connections and memory, as /proc shows them."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Footprint:
    """One process at one moment. ``files`` are those that are no connection to a known port."""

    threads: int
    files: int
    memory_mb: float
    connections: dict[int, int]  # by the port of the other side


def children(pid: int) -> list[int]:
    """Return the processes that ``pid`` has started and that live: gunicorn's workers."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return sorted(found)


def footprint(pid: int, ports: tuple[int, ...]) -> Footprint:
    """Return what ``pid`` holds; connections to one of ``ports`` are counted by themselves."""
    status = dict(
        line.split(":\t", 1)
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if ":\t" in line
    )
    remote = _remote_ports(pid)
    files, connections = 0, Counter[int]()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(entry.readlink())
        except FileNotFoundError:
            continue
        port = remote.get(target.removeprefix("socket:[").removesuffix("]"))
        if port in ports:
            connections[port] += 1
        else:
            files += 1
    memory = int(status["VmRSS"].split()[0]) / 1024
    return Footprint(int(status["Threads"]), files, memory, dict(connections))


def _remote_ports(pid: int) -> dict[str, int]:
    """Return the remote port of each TCP connection of the machine by its inode."""
    ports = {}
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        columns = line.split()
        ports[columns[9]] = int(columns[2].rpartition(":")[2], 16)
    return ports
