"""What a tree of processes has used: CPU time, and memory now and at its peak (Linux)."""

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")


def tree(pid: int) -> list[int]:
    """Return a process and all that descend from it."""
    return [pid, *(each for child in _children(pid) for each in tree(child))]


def cpu_seconds(pid: int) -> float:
    """Return the CPU time, user's and system's, of a process and its descendants, in s.

    The clock of a process has nanoseconds where /proc/PID/stat has hundredths of a second; its
    number is made as clock_getcpuclockid(3) makes it.
    """
    total = 0.0
    for each in tree(pid):
        with suppress(OSError):  # it ended while we looked
            total += time.clock_gettime(~each << 3 | 2)
    return total


def memory_mb(pid: int) -> float:
    """Return the memory of a process and its descendants, in MB; shared pages count once (PSS)."""
    kilobytes = 0
    for each in tree(pid):
        with suppress(OSError):
            kilobytes += _kilobytes(PROC / str(each) / "smaps_rollup", "Pss:")
    return kilobytes / 1000


def peak_memory_mb(pid: int) -> float:
    """Return the most that the largest process of the tree has had resident (VmHWM), in MB."""
    peaks = [0]
    for each in tree(pid):
        with suppress(OSError):
            peaks.append(_kilobytes(PROC / str(each) / "status", "VmHWM:"))
    return max(peaks) / 1000


def _kilobytes(file: Path, name: str) -> int:
    for line in file.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(name):
            return round(int(line.split()[1]) * 1.024)
    return 0


def _children(pid: int) -> Iterator[int]:
    with suppress(OSError):
        for task in (PROC / str(pid) / "task").iterdir():
            yield from map(int, (task / "children").read_text(encoding="ascii").split())
