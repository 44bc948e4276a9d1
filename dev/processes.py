"""Child processes that end with this one, and the processes of a server."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, NamedTuple, TypedDict, Unpack

from dev.data_dir import DataDir

LAUNCH = Path(__file__).with_name("launch.py")
POLL_SECONDS = 0.01

# For the kernel, the parent is the *thread* that forked. This thread lives as long as the process.
_forker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="forker")

Stream = IO[bytes] | int | None


class PopenOptions(TypedDict, total=False):
    """The options that `spawn` passes on to subprocess.Popen."""

    cwd: Path
    env: Mapping[str, str]
    stdin: Stream
    stdout: Stream
    stderr: Stream


class Process(NamedTuple):
    """One entry of the process table."""

    pid: int
    parent: int
    program: str
    command: str


def spawn(
    command: Sequence[str],
    death_signal: signal.Signals,
    home: DataDir | None = None,
    **options: Unpack[PopenOptions],
) -> subprocess.Popen[bytes]:
    """Start `command` in its own session, where a terminal's Ctrl-C does not reach it.

    It gets `death_signal` when this process dies for any reason (Linux only). With a `home`, it
    runs under the account of that directory.
    """
    account = home.account if home else None
    user = f"{account.uid}:{account.gid}" if account else "-"
    directory = str(home.path) if home else "/"
    launch = [str(LAUNCH), str(os.getpid()), str(int(death_signal)), user, directory]
    arguments = [sys.executable, "-IS", *launch, *command]

    def popen() -> subprocess.Popen[bytes]:
        return subprocess.Popen(arguments, start_new_session=True, **options)

    return _forker.submit(popen).result()


def family(program: str, mark: str) -> set[Process]:
    """Return the processes of `program` with `mark` in the command line, and their children."""
    candidates = [process for process in _table(program) if process.program == program]
    marked = {process for process in candidates if mark in process.command}
    pids = {process.pid for process in marked}
    return marked | {process for process in candidates if process.parent in pids}


def signal_all(processes: Iterable[Process], signum: signal.Signals) -> None:
    """Send a signal to each of these processes that still exists."""
    for process in processes:
        try:
            os.kill(process.pid, signum)
        except ProcessLookupError:
            continue


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Return True as soon as the condition holds, False after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def _table(program: str) -> Iterator[Process]:
    return _from_proc(program) if Path("/proc/self/stat").exists() else _from_ps()


def _from_proc(program: str) -> Iterator[Process]:
    # World-readable files only: in a container without CAP_SYS_PTRACE, even root cannot read links
    # such as /proc/PID/cwd of another user's process.
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            head, _, rest = Path(entry.path, "stat").read_text(errors="replace").rpartition(")")
            state, parent = rest.split()[:2]
            name = head.partition("(")[2]
            if name != program or state == "Z":
                continue
            command = Path(entry.path, "cmdline").read_bytes().replace(b"\0", b" ")
        except OSError:  # the process has ended
            continue
        yield Process(int(entry.name), int(parent), name, command.decode(errors="replace"))


def _from_ps() -> Iterator[Process]:
    columns = ["-o", "pid=", "-o", "ppid=", "-o", "stat=", "-o", "command="]
    listing = subprocess.run(["/bin/ps", "-ax", *columns], capture_output=True, check=True)
    for line in listing.stdout.decode(errors="replace").splitlines():
        pid, parent, state, command = line.split(None, 3)
        if not state.startswith("Z"):
            name = Path(command.split()[0].rstrip(":")).name
            yield Process(int(pid), int(parent), name, command)
