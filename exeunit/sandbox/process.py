"""What a process can do to itself in one call: die with its parent, give up new privileges, take limits."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_NO_NEW_PRIVS: Final = 38

# Loaded here and not on use: `die_with_parent` also runs between fork and exec.
_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the thread that started it ends.

    Args:
        parent: process id of the expected parent. If it has died already, this process exits at once, since
            the kernel would then say nothing.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def no_new_privileges() -> None:
    """Make set-uid programs powerless for this process and its children; Landlock and seccomp ask for it."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def no_core_dump() -> None:
    """Keep this process out of core files and other people's debuggers."""
    _prctl(_PR_SET_DUMPABLE, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def limit(what: int, amount: int) -> None:
    """Lower one resource limit, such as `resource.RLIMIT_NOFILE`, to `amount`, or to what is allowed if less."""
    _, hard = resource.getrlimit(what)
    capped = amount if hard == resource.RLIM_INFINITY else min(amount, hard)
    resource.setrlimit(what, (capped, capped))
