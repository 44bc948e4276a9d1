"""Runs inside the child, between fork and exec: change user, ask to die with the parent, exec.

`python -IS launch.py PARENT SIGNAL UID:GID|- DIRECTORY PROGRAM ARGUMENT...` becomes PROGRAM and
keeps its process id. It is a script of its own because `preexec_fn` may deadlock in a process
that has threads. Any failure is one line on stderr and exit code 126.
"""

import ctypes
import os
import sys
from typing import NoReturn

PR_SET_PDEATHSIG, PR_SET_KEEPCAPS, PR_SET_SECUREBITS, PR_CAP_AMBIENT = 1, 8, 28, 47
PR_CAP_AMBIENT_RAISE = 2
SECBIT_NO_SETUID_FIXUP = 4
CAP_DAC_OVERRIDE, CAP_SETPCAP = 1, 8
CAPABILITY_VERSION_3 = 0x20080522


def main(arguments: list[str]) -> NoReturn:
    """Do what the command line says; never return."""
    parent, death_signal, account, directory, *command = arguments
    try:
        if account != "-":
            uid, gid = account.split(":")
            become(int(uid), int(gid), directory, command[0])
        die_with(int(parent), int(death_signal))
        os.execv(command[0], command)  # noqa: S606 - no shell is wanted
    except OSError as error:
        sys.exit(f"cannot run {command[0]} (as {account}): {error.strerror}")


def become(uid: int, gid: int, directory: str, program: str) -> None:
    """Give root up for good; exit where the new user could reach neither program nor directory."""
    prctl(PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    # access() asks for the bare user: capabilities that KEEPCAPS left do not count.
    reachable = os.access(program, os.X_OK) and os.access(directory, os.R_OK | os.W_OK | os.X_OK)
    if not reachable and not keep_reach():
        sys.exit(
            f"user {uid} can reach {program} or {directory} only through folders closed to it: "
            "put the checkout and DATA_DIR below /tmp, or do not run as root"
        )


def keep_reach() -> bool:
    """Keep passing closed folders (/root is 0700) as the only privilege; False if not allowed."""
    return (
        hold(CAP_DAC_OVERRIDE, CAP_SETPCAP)
        # access(2), by which initdb looks for postgres, would not count the capability otherwise.
        and prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP)
        and hold(CAP_DAC_OVERRIDE)
        and prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_OVERRIDE)
    )


def hold(*capabilities: int) -> bool:
    """Drop all capabilities but these; False where we do not have them."""
    bits = sum(1 << capability for capability in capabilities)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    # Effective, permitted and inheritable, first for capabilities 0 to 31, then for the others.
    sets = (ctypes.c_uint32 * 6)(bits, bits, bits, 0, 0, 0)
    capset = getattr(ctypes.CDLL(None), "capset", None)  # Linux only
    return capset is not None and capset(header, sets) == 0


def die_with(parent: int, death_signal: int) -> None:
    """Have the kernel send the signal when the parent goes; after `become`, which would undo it."""
    if prctl(PR_SET_PDEATHSIG, death_signal) and os.getppid() != parent:
        sys.exit("the process that started this one is gone")


def prctl(option: int, *values: int) -> bool:
    """Change one attribute of this process; False where the system refuses or has no such call."""
    call = getattr(ctypes.CDLL(None), "prctl", None)  # Linux only
    if call is None:
        return False
    padded = (*values, 0, 0, 0, 0)[:4]  # it insists on zeros for arguments that are not used
    return bool(call(option, *map(ctypes.c_ulong, padded)) == 0)


if __name__ == "__main__":
    main(sys.argv[1:])
