"""A server's directory: whose it is, who uses it now, and the small files beside the data."""

import errno
import fcntl
import os
import pwd
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import IO


class DataDirInUse(Exception):
    """Another process, or another object in this one, holds the lock of this directory."""


class ServerFailed(Exception):
    """A server cannot be started; the message says why, with the end of its log if it has one."""


@dataclass(frozen=True, slots=True)
class Account:
    """The user that a server runs as, and whose its files are, when we are root."""

    uid: int
    gid: int


class DataDir:
    """One directory, used by one process at a time: `acquire` it before anything else.

    Only its owner can read it. When we are root its owner is an ordinary account, because
    PostgreSQL refuses to run as root: see `account_for`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.account: Account | None = None
        self._lock: int | None = None

    @property
    def mark(self) -> str:
        """A word for the command line of its server, by which a leftover is known to be ours."""
        status = self.path.stat()
        return f"users-{status.st_dev:x}-{status.st_ino:x}"

    def acquire(self) -> None:
        """Make the directory if it is new and lock it; again is harmless.

        Raises DataDirInUse when somebody has the lock, ServerFailed when we may not use it.
        """
        if self._lock is not None:
            return
        try:
            self.account = account_for(self.path)
            self._make()
            self._lock = self._take_lock()
        except OSError as error:
            reason = f"cannot use {self.path}: {error.strerror}"
            raise ServerFailed(f"{reason}; choose another DATA_DIR") from error

    def release(self) -> None:
        """Unlock; again is harmless. The kernel does this for a process that dies."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def password(self) -> str:
        """Return the password kept in the directory, made at random the first time."""
        path = self.path / "password"
        if not path.exists():
            self.write("password", secrets.token_urlsafe(24))
        return path.read_text(encoding="ascii")

    def write(self, name: str, text: str) -> Path:
        """Write a file that only the account can read, whole or not at all; return its path."""
        partial = f"{name}.partial"
        with self.create(partial) as file:
            file.write(text.encode())
        return (self.path / partial).replace(self.path / name)

    def create(self, name: str) -> IO[bytes]:
        """Open a new, empty file that only the account can read, instead of any older one."""
        path = self.path / name
        path.unlink(missing_ok=True)
        # O_EXCL: we may be root in a folder of somebody else's, and must not follow their links.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self.give(path)
        return os.fdopen(descriptor, "wb")

    def give(self, path: Path) -> None:
        """Make the account the owner of a file that we made as root."""
        if self.account is not None:
            os.chown(path, self.account.uid, self.account.gid, follow_symlinks=False)

    def _make(self) -> None:
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
            holder = os.read(lock, 20).decode() or "that is just starting"
            os.close(lock)
            raise DataDirInUse(f"{self.path} is in use by process {holder}") from None
        self.give(path)
        os.ftruncate(lock, 0)
        os.write(lock, str(os.getpid()).encode())
        return lock


def account_for(path: Path) -> Account | None:
    """Choose whose the servers in `path` are: None (our own) unless we are root.

    It is the owner of the directory, or of the first folder above it that exists: who starts
    once as root and then as themselves keeps access. Where that is root, it is nobody.
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
    # initdb refuses to run as a user without one, as the owner of a mounted folder may be.
    return any(entry.pw_uid == uid for entry in pwd.getpwall())
