"""The files in which processes keep their metrics, for a scrape that adds up those of all.

Each process has files named after its process id, in the folder PROMETHEUS_MULTIPROC_DIR.
prometheus_client decides at its import whether it uses them, hence this module does not import it.
"""

import logging
import os
import re
import threading
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)

_NAME = re.compile(r"(counter|gauge_[a-z]+|histogram|summary)_[0-9]+\.db")
# More bytes than the bounded number of series needs.
_SIZES = {
    "counter": 1 << 16,
    "gauge_livemax": 1 << 16,
    "gauge_livemostrecent": 1 << 16,
    "gauge_livesum": 1 << 16,
    "histogram": 1 << 20,
}


def files_in(directory: Path) -> list[Path]:
    """Return the files of all processes; those of other programs are left out."""
    return [file for file in directory.iterdir() if _NAME.fullmatch(file.name)]


def reserve(directory: Path) -> bool:
    """Allocate the files of this process; return False if there is no space for them.

    The kernel ends a process that writes to a mapped file for which there is no space (SIGBUS).
    """
    paths = {directory / f"{kind}_{os.getpid()}.db": size for kind, size in _SIZES.items()}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for path, size in paths.items():
            new = path.with_suffix(".new")
            new.write_bytes(bytes(size))
            new.replace(path)  # a scrape finds a whole file or none
    except OSError as error:
        log.warning("this process shares no metrics: %s", error.strerror)
        for path in paths:
            path.unlink(missing_ok=True)
            path.with_suffix(".new").unlink(missing_ok=True)
        return False
    return True


def forget_dead_processes(directory: Path) -> None:
    """Remove the live gauges of processes that have ended. Their counters remain."""
    for file in files_in(directory):
        kind, _, process = file.stem.rpartition("_")
        if not is_running(int(process)):
            with suppress(OSError):  # removed by another process first, or no space for a copy
                if kind.startswith("gauge_live"):
                    file.unlink()
                else:
                    _free_unused_memory(file)


def _free_unused_memory(file: Path) -> None:
    """Replace the zeros at the end of a file by a hole."""
    if file.stat().st_blocks * 512 < file.stat().st_size:  # done already
        return
    content = file.read_bytes()
    new = file.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
    try:
        with new.open("wb") as writing:
            writing.write(content.rstrip(b"\0"))
            writing.truncate(len(content))
        new.replace(file)
    finally:
        new.unlink(missing_ok=True)


def is_running(process_id: int) -> bool:
    """Tell whether there is a process of this user with that id."""
    try:
        os.kill(process_id, 0)
    except OSError:  # no such process, or one of another user with the same id
        return False
    return True
