"""The life of a server process, shared by PostgreSQL and Valkey: start, stop, crash, freeze."""

import os
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self

from dev.data_dir import DataDir, ServerFailed
from dev.ports import free_port
from dev.processes import Process, Stream, family, signal_all, spawn, wait_until

START_SECONDS = 60.0  # crash recovery after heavy writing takes a while
STOP_SECONDS = 20.0
LOG = "server.log"  # overwritten by each start
LOG_TAIL_LINES = 15
# The caller's environment is not passed on: PGDATA, PGDATESTYLE and others would change the server.
ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


class Server(ABC):
    """A server process on 127.0.0.1 with its own directory; a context manager.

    One thread at a time may call its methods. A restart keeps `port` and `url`.
    """

    title: ClassVar[str]
    program: ClassVar[str]
    stop_signal: ClassVar[signal.Signals]

    def __init__(
        self, data_dir: Path, *, port: int | None = None, options: Mapping[str, str] | None = None
    ) -> None:
        self.port = port or free_port()
        self._options = dict(options or {})
        self._dir = DataDir(data_dir)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    @abstractmethod
    def url(self) -> str:
        """The connection URL, including the password; available after `start`."""

    @property
    def pid(self) -> int:
        """The id of the main process; RuntimeError if it was not started."""
        if self._process is None:
            raise RuntimeError(f"{self.title} is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the main process exists. A frozen process counts as running."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start, and return when the server accepts connections; do nothing if it is running.

        A server that a killed launcher has left on the directory is stopped first. Raise
        DataDirInUse or ServerFailed.
        """
        if self.running:
            return
        self._dir.acquire()
        try:
            self._clear_leftovers()
            self._prepare()
            self._launch()
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Stop gracefully, also a frozen server; do nothing if it is not running."""
        if self.running:
            self.thaw()
            self._signal(self.stop_signal)
            wait_until(lambda: not self.running, STOP_SECONDS)
        self.kill()

    def kill(self) -> None:
        """Crash: SIGKILL every process of the server; do nothing if it is not running."""
        if self.running:
            self.freeze()
            self._end(self._family())
        if self._process is not None:
            self._process.wait()
            self._process = None
        self._dir.release()

    def restart(self) -> None:
        """Stop gracefully and start again."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """SIGSTOP every process: the kernel still accepts connections, the server is silent."""
        # The main process first: it starts no new ones during the search.
        self._signal(signal.SIGSTOP)
        frozen: set[int] = {self.pid}
        while found := {process for process in self._family() if process.pid not in frozen}:
            signal_all(found, signal.SIGSTOP)
            frozen |= {process.pid for process in found}

    def thaw(self) -> None:
        """SIGCONT every process: frozen work continues."""
        signal_all(self._family(), signal.SIGCONT)

    @abstractmethod
    def _prepare(self) -> None:
        """Write the files that the server needs for its start."""

    @abstractmethod
    def _command(self) -> Sequence[str]:
        """Return program and arguments, with the directory's mark and without secrets."""

    @abstractmethod
    def _ready(self) -> bool:
        """Return whether the server accepts connections."""

    def _launch(self) -> None:
        with self._dir.create(LOG) as log:
            self._process = self._spawn(self._command(), self.stop_signal, stdout=log)
        if not wait_until(lambda: not self.running or self._ready(), START_SECONDS):
            raise ServerFailed(f"{self.title} is not ready after {START_SECONDS:.0f} s{self._tail}")
        if not self.running:
            raise ServerFailed(f"{self.title} stopped while starting{self._tail}")

    def _spawn(
        self,
        command: Sequence[str],
        death_signal: signal.Signals,
        *,
        stdout: Stream,
        stdin: Stream = subprocess.DEVNULL,
    ) -> subprocess.Popen[bytes]:
        return spawn(
            command,
            death_signal,
            self._dir,
            cwd=Path("/"),
            env=ENVIRONMENT,
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.STDOUT,
        )

    def _signal(self, signum: signal.Signals) -> None:
        if self._process is None:
            raise RuntimeError(f"{self.title} is not running")
        self._process.send_signal(signum)

    def _family(self) -> set[Process]:
        return family(self.program, self._dir.mark)

    def _clear_leftovers(self) -> None:
        leftovers = self._family()
        pids = {process.pid for process in leftovers}
        signal_all(leftovers, signal.SIGCONT)
        # Main processes only: the same signal has another meaning for a PostgreSQL backend.
        heads = {process for process in leftovers if process.parent not in pids}
        signal_all(heads, self.stop_signal)
        if not wait_until(lambda: not self._family(), STOP_SECONDS):
            self._end(self._family())

    def _end(self, processes: set[Process]) -> None:
        signal_all(processes, signal.SIGKILL)
        wait_until(lambda: not self._family(), STOP_SECONDS)

    @property
    def _tail(self) -> str:
        log = (self._dir.path / LOG).read_text(errors="replace")
        lines = log.splitlines()[-LOG_TAIL_LINES:]
        return "".join(f"\n  {line}" for line in lines)
