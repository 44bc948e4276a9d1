"""The metrics of several processes, which prometheus_client keeps in files of one folder.

Each process writes files named after its process id; a scrape adds up the files of all. This mode
is on if PROMETHEUS_MULTIPROC_DIR names the folder before prometheus_client is imported.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from prometheus_client import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

_KINDS = ("counter", "gauge", "histogram")


class AllProcesses(Collector):
    """Adds up the metrics of all processes, without the live gauges of those that have ended."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def collect(self) -> Iterable[Metric]:
        """Return the sums; files of other programs in the folder are ignored."""
        forget_dead_processes(self._directory)
        files = [str(file) for kind in _KINDS for file in self._directory.glob(f"{kind}_*.db")]
        metrics: Iterable[Metric] = MultiProcessCollector.merge(files)
        return metrics


def forget_dead_processes(directory: Path) -> None:
    """Remove the live gauges of processes that have ended; their counters remain.

    granian has no hook for the end of a process.
    """
    for file in directory.glob("gauge_live*_[0-9]*.db"):
        process_id = int(file.stem.rpartition("_")[2])
        if not _is_running(process_id):
            with suppress(FileNotFoundError):  # another process removed the file first
                mark_process_dead(process_id, str(directory))


def _is_running(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except OSError:  # no such process, or one of another user with the same id
        return False
    return True
