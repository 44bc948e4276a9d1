"""What a process holds: threads, open files, connections and memory, as /proc shows them."""

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Footprint:
    """One process at one moment. ``files`` are those that are no connection of a known port.

    Nor ``resets``: sockets that the other end has reset, of which the kernel does not say any more
    where they led. A pool keeps those until it is their turn to be used, and only then sees it.
    """

    threads: int
    files: int
    resets: int
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
    both_ports, sockets = _ports(pid), _sockets(pid)
    files, resets, connections = 0, 0, Counter[int]()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(entry.readlink())
        except FileNotFoundError:
            continue
        inode = target.removeprefix("socket:[").removesuffix("]")
        known = [port for port in both_ports.get(inode, ()) if port in ports]
        connections.update(known)
        is_reset = target.startswith("socket:") and inode not in sockets
        resets += is_reset
        files += not known and not is_reset
    memory = int(status["VmRSS"].split()[0]) / 1024
    return Footprint(int(status["Threads"]), files, resets, memory, dict(connections))


def _ports(pid: int) -> dict[str, tuple[int, int]]:
    """Return the local and the remote port of each TCP connection of the machine by its inode."""
    ports = {}
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        columns = line.split()
        local, remote = (int(column.rpartition(":")[2], 16) for column in columns[1:3])
        ports[columns[9]] = (local, remote)
    return ports


def _sockets(pid: int) -> set[str]:
    """Return the inodes of all sockets of the machine that lead somewhere, or may yet."""
    tables = {"tcp": 9, "tcp6": 9, "udp": 9, "udp6": 9, "unix": 6, "netlink": 9}
    inodes = set()
    for name, column in tables.items():
        table = Path(f"/proc/{pid}/net/{name}")
        if table.exists():
            inodes |= {line.split()[column] for line in table.read_text().splitlines()[1:]}
    return inodes
