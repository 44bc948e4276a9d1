"""Metrics of several processes: each keeps its own in files, and whoever is asked adds them up.

prometheus_client names these files after process ids: every worker that is replaced would leave
some behind, to be read at each scrape from then on. Here they are named after *slots*. A process
takes the first slot that is free, and goes on counting where its predecessor stopped; so there
are never more files than processes at one time, and no counter goes backwards. A slot is a lock on
a file, which the kernel lets go when its holder ends, also when it is killed; so no server needs
to tell which of its processes have died.
"""

import fcntl
import itertools
import os
import struct
import threading
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, values
from prometheus_client.multiprocess import MultiProcessCollector


def share(directory: Path) -> None:
    """Keep all metrics that are made from now on in ``directory``, for its processes together.

    prometheus_client itself must find it in PROMETHEUS_MULTIPROC_DIR.
    """
    directory.mkdir(parents=True, exist_ok=True)
    slot = Slot(directory)
    value = values.MultiProcessValue(slot.name)  # type: ignore[no-untyped-call]
    values.ValueClass = _counting_quickly(value, slot)


def registry_of(directory: Path) -> CollectorRegistry:
    """Return what all processes of ``directory`` have counted, without gauges of the dead."""
    for lock in directory.glob("*.lock"):
        with lock.open("rb") as file:
            if _locked(file.fileno()):
                _forget_gauges(directory, lock.stem)
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(directory))  # type: ignore[no-untyped-call]
    return registry


class Slot:
    """The place of this process among those of ``directory``, held until the process ends.

    ``is_taken`` is false before the first time that its name is asked for, and after a fork.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._name = ""
        self.is_taken = False
        os.register_at_fork(after_in_child=self._leave)

    def name(self) -> str:
        """Return what to name the files of this process after; after a fork, another."""
        if not self.is_taken:
            self._name = self._take()
            self.is_taken = True
        return self._name

    def _leave(self) -> None:
        self.is_taken = False

    def _take(self) -> str:
        for number in itertools.count():
            # Never closed: the lock is kept until then, that is until the process ends.
            lock = os.open(self._directory / f"{number}.lock", os.O_RDWR | os.O_CREAT, 0o600)
            if _locked(lock):
                break
            os.close(lock)
        _forget_gauges(self._directory, str(number))
        return str(number)


def _counting_quickly(value_class: Any, slot: Slot) -> Any:
    """Return prometheus_client's class of values, without the question whether there was a fork.

    prometheus_client checks that on each increment, by two calls, and a request has five or more.
    No metric here uses both inc() and set(), so that a lock beside prometheus_client's will do.
    """
    lock = threading.Lock()

    class Value(value_class):  # type: ignore[misc]
        def inc(self, amount: float) -> None:
            if not slot.is_taken:
                super().inc(amount)
                return
            file = self._file
            at = file._positions[self._key]  # noqa: SLF001
            with lock:
                self._value += amount
                # In one go, so that no reader finds half of it; 0 stands for "no timestamp".
                file._m[at : at + 16] = _value_and_timestamp(self._value, 0.0)  # noqa: SLF001

    return Value


_value_and_timestamp = struct.Struct("dd").pack


def _locked(file: int) -> bool:
    """Try to lock ``file``; return whether it was free."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _forget_gauges(directory: Path, slot: str) -> None:
    """Remove what a process left that said how it is; what it counted stays."""
    for file in directory.glob(f"gauge_live*_{slot}.db"):
        file.unlink(missing_ok=True)
