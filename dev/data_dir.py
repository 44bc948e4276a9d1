"""The directory of a server: its lock, its owner, and the small files beside the data."""

import errno
import fcntl
import os
import pwd
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import IO


class DataDirInUse(Exception):
    """Another process, or another object in this process, holds the lock of the directory."""


class ServerFailed(Exception):
    """A server cannot start. The message gives the reason and the end of the server's log."""


@dataclass(frozen=True, slots=True)
class Account:
    """The user that a server runs as when this process is root; it owns the server's files."""

    uid: int
    gid: int


class DataDir:
    """A directory for one process at a time. Call `acquire` before any other method.

    Only its owner can read it. For root the owner is an ordinary account, because PostgreSQL
    refuses to run as root: see `account_for`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.account: Account | None = None
        self._lock: int | None = None

    @property
    def mark(self) -> str:
        """A word for the server's command line that identifies it as one of this directory."""
        status = self.path.stat()
        return f"users-{status.st_dev:x}-{status.st_ino:x}"

    def acquire(self) -> None:
        """Create the directory if needed, and lock it. A second call does nothing.

        Raise DataDirInUse if the lock is taken, ServerFailed if the directory is not usable.
        """
        if self._lock is not None:
            return
        try:
            self.account = account_for(self.path)
            self._create()
            self._lock = self._take_lock()
        except OSError as error:
            reason = f"cannot use {self.path}: {error.strerror}"
            raise ServerFailed(f"{reason}; choose another DATA_DIR") from error

    def release(self) -> None:
        """Unlock. A second call does nothing; the kernel unlocks for a process that dies."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def password(self) -> str:
        """Return the password of the directory; the first call creates a random one."""
        path = self.path / "password"
        if not path.exists():
            self.write("password", secrets.token_urlsafe(24))
        return path.read_text(encoding="ascii")

    def write(self, name: str, text: str) -> Path:
        """Write a file atomically, readable by the account only; return its path."""
        partial = f"{name}.partial"
        with self.create(partial) as file:
            file.write(text.encode())
        return (self.path / partial).replace(self.path / name)

    def create(self, name: str) -> IO[bytes]:
        """Open a new, empty file that only the account can read; it replaces an older one."""
        path = self.path / name
        path.unlink(missing_ok=True)
        # O_EXCL: root must not follow a link that the owner of the folder has planted.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self.give(path)
        return os.fdopen(descriptor, "wb")

    def give(self, path: Path) -> None:
        """Make the account the owner of a file that root created."""
        if self.account is not None:
            os.chown(path, self.account.uid, self.account.gid, follow_symlinks=False)

    def _create(self) -> None:
        missing = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        for folder in reversed(missing):
            folder.mkdir(mode=0o700 if folder == self.path else 0o755)
            self.give(folder)
        owner = self.path.stat().st_uid
        if self.account is not None and owner != self.account.uid:
            self.give(self.path)
        elif self.account is None and owner != os.geteuid():
            raise PermissionError(errno.EPERM, f"it belongs to user {owner}")

    def _take_lock(self) -> int:
        path = self.path / "lock"
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(lock, 20).decode() or "that is starting"
            os.close(lock)
            raise DataDirInUse(f"{self.path} is in use by process {holder}") from None
        self.give(path)
        os.ftruncate(lock, 0)
        os.write(lock, str(os.getpid()).encode())
        return lock


def account_for(path: Path) -> Account | None:
    """Return the account for the server in `path`; None means the user of this process.

    Only root needs an account. It is the owner of the directory, or of the closest existing
    folder above it, so that this user keeps access after one start as root. If root owns that
    folder, the account is `nobody`.
    """
    if os.geteuid() != 0:
        return None
    owner = next(folder for folder in (path, *path.parents) if folder.exists()).stat()
    if owner.st_uid != 0 and (path.exists() or _has_entry(owner.st_uid)):
        return Account(owner.st_uid, owner.st_gid)
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise ServerFailed("started as root, and there is no user `nobody` to run as") from None
    return Account(nobody.pw_uid, nobody.pw_gid)


def _has_entry(uid: int) -> bool:
    # initdb refuses a user without an entry, as the owner of a mounted folder may be.
    return any(entry.pw_uid == uid for entry in pwd.getpwall())
