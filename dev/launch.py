"""The steps between fork and exec of a server: change user, tie its life to the parent, exec.

`python -IS launch.py PARENT SIGNAL UID:GID|- DIRECTORY PROGRAM ARGUMENT...` becomes PROGRAM and
keeps its process id. `preexec_fn` may deadlock in a process with threads; a script does not. A
failure is one line on stderr.
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
    """Become the program of the command line, or exit."""
    parent, death_signal, account, directory, *command = arguments
    try:
        if account != "-":
            uid, gid = account.split(":")
            become(int(uid), int(gid), directory, command[0])
        die_with(int(parent), int(death_signal))
        os.execv(command[0], command)  # noqa: S606 -- no shell is involved
    except OSError as error:
        sys.exit(f"cannot run {command[0]} (as {account}): {error.strerror}")


def become(uid: int, gid: int, directory: str, program: str) -> None:
    """Drop root for good; exit if the new user cannot reach program and directory."""
    prctl(PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    # access(2) ignores the capabilities that KEEPCAPS has kept.
    reachable = os.access(program, os.X_OK) and os.access(directory, os.R_OK | os.W_OK | os.X_OK)
    if not reachable and not keep_reach():
        sys.exit(
            f"user {uid} can reach {program} or {directory} only through folders closed to it: "
            "put the checkout and DATA_DIR below /tmp, or do not run as root"
        )


def keep_reach() -> bool:
    """Keep one privilege, passing closed folders (/root is 0700); return False if refused."""
    return (
        hold(CAP_DAC_OVERRIDE, CAP_SETPCAP)
        # initdb finds postgres with access(2), which counts the capability only with this bit.
        and prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP)
        and hold(CAP_DAC_OVERRIDE)
        and prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_OVERRIDE)
    )


def hold(*capabilities: int) -> bool:
    """Drop all capabilities except these; return False if the process does not have them."""
    bits = sum(1 << capability for capability in capabilities)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    # Effective, permitted and inheritable: for capabilities 0 to 31, then for the others.
    sets = (ctypes.c_uint32 * 6)(bits, bits, bits, 0, 0, 0)
    capset = getattr(ctypes.CDLL(None), "capset", None)  # Linux only
    return capset is not None and capset(header, sets) == 0


def die_with(parent: int, death_signal: int) -> None:
    """Have the kernel send the signal when the parent dies. `become` would reset this."""
    if prctl(PR_SET_PDEATHSIG, death_signal) and os.getppid() != parent:
        sys.exit("the parent process has ended")


def prctl(option: int, *values: int) -> bool:
    """Change one attribute of this process; return False if the system refuses."""
    call = getattr(ctypes.CDLL(None), "prctl", None)  # Linux only
    if call is None:
        return False
    padded = (*values, 0, 0, 0, 0)[:4]  # unused arguments must be zero
    return bool(call(option, *map(ctypes.c_ulong, padded)) == 0)


if __name__ == "__main__":
    main(sys.argv[1:])
