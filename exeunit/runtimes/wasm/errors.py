"""Faults of the WASM runtime, each with the exit code that tells it from the others.

    Fault
     ├─ BadImage        the task package or a module in it cannot be used
     ├─ NotDeployed     the work directory holds no deployment that fits
     ├─ Trapped         the guest did something that ends it: unreachable, out of bounds, stack exhausted
     └─ MemoryLimit     the guest needs more memory than it may have

A guest's own exit code is passed on as it is, so a code alone does not prove a fault; the runtime's line on stderr,
which starts with `golem-p2p-wasm: `, does.
"""

from __future__ import annotations

import enum
from typing import ClassVar


class Exit(enum.IntEnum):
    """Exit codes of the runtime's own faults."""

    USAGE = 2
    """The command line is wrong (argparse's own code)."""
    BAD_IMAGE = 65
    NOT_DEPLOYED = 66
    INTERNAL = 70
    QUOTA = 122
    """The guest trapped after the disk quota had refused it something."""
    TIME_LIMIT = 124
    """As `timeout(1)` has it."""
    TRAP = 134
    """As a shell shows SIGABRT, which is what other WASM runtimes return."""
    MEMORY_LIMIT = 137
    """As a shell shows the SIGKILL of the kernel's out-of-memory killer."""


class Fault(Exception):
    """Something ended the command; the message is one line for the requestor."""

    code: ClassVar[Exit] = Exit.INTERNAL


class BadImage(Fault):
    code = Exit.BAD_IMAGE


class NotDeployed(Fault):
    code = Exit.NOT_DEPLOYED


class Trapped(Fault):
    code = Exit.TRAP


class MemoryLimit(Fault):
    code = Exit.MEMORY_LIMIT


class QuotaFull(Fault):
    code = Exit.QUOTA
