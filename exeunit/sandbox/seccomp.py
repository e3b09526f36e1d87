"""seccomp: a process gives up the system calls that compute work never needs.

A short deny list rather than an allow list: the confined program is a whole Python with a compiler in it, whose
calls change with every release, and Landlock already holds the files. What the list takes away is the network,
starting programs, looking into other processes, and the corners of the kernel that exploits like best.

Errors: `OSError` when the kernel refuses, `Unsupported` on a machine whose call numbers are not listed here.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from typing import Final

_PR_SET_SECCOMP: Final = 22
_MODE_FILTER: Final = 2

_ALLOW: Final = 0x7FFF0000
_ERRNO: Final = 0x00050000
_KILL_PROCESS: Final = 0x80000000

_LD_WORD: Final = 0x20
_JUMP_EQUAL: Final = 0x15
_JUMP_GREATER_EQUAL: Final = 0x35
_JUMP_SET: Final = 0x45
_RETURN: Final = 0x06
_NUMBER_OFFSET: Final = 0
_ARCH_OFFSET: Final = 4
_FIRST_ARGUMENT_OFFSET: Final = 16

_CLONE_THREAD: Final = 0x00010000
_X32_BIT: Final = 0x40000000

_AUDIT_ARCH: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_COLUMN: Final = {"x86_64": 0, "aarch64": 1}

DENIED: Final[dict[str, tuple[int | None, int | None]]] = {
    "socket": (41, 198),
    "execve": (59, 221),
    "execveat": (322, 281),
    "fork": (57, None),
    "vfork": (58, None),
    "kill": (62, 129),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "io_uring_setup": (425, 425),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "fsopen": (430, 430),
    "move_mount": (429, 429),
    "unshare": (272, 97),
    "setns": (308, 268),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "userfaultfd": (323, 282),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "kexec_load": (246, 104),
    "open_by_handle_at": (304, 265),
}
"""Refused with EPERM, with its number on x86-64 and on arm64 (from the kernel's unistd headers)."""
_CLONE: Final = (56, 220)
_CLONE3: Final = 435


class Unsupported(OSError):
    """The call numbers of this machine's architecture are not known here."""


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def program(machine: str) -> bytes:
    """Return the BPF program for `machine` (`x86_64` or `aarch64`).

    A new process is refused but a new thread is not: `clone` passes only with CLONE_THREAD, and `clone3`, whose
    flags a filter cannot see, answers ENOSYS, upon which libc falls back to `clone`.
    """
    if machine not in _AUDIT_ARCH:
        raise Unsupported(errno.ENOSYS, f"no call numbers for the machine type {machine}")
    column = _COLUMN[machine]
    refuse = _instruction(_RETURN, _ERRNO | errno.EPERM)
    code = [
        _instruction(_LD_WORD, _ARCH_OFFSET),
        _instruction(_JUMP_EQUAL, _AUDIT_ARCH[machine], 1, 0),
        _instruction(_RETURN, _KILL_PROCESS),
        _instruction(_LD_WORD, _NUMBER_OFFSET),
    ]
    if machine == "x86_64":
        code += [_instruction(_JUMP_GREATER_EQUAL, _X32_BIT, 0, 1), _instruction(_RETURN, _KILL_PROCESS)]
    for numbers in DENIED.values():
        number = numbers[column]
        if number is not None:
            code += [_instruction(_JUMP_EQUAL, number, 0, 1), refuse]
    code += [
        _instruction(_JUMP_EQUAL, _CLONE3, 0, 1),
        _instruction(_RETURN, _ERRNO | errno.ENOSYS),
        _instruction(_JUMP_EQUAL, _CLONE[column], 0, 3),
        _instruction(_LD_WORD, _FIRST_ARGUMENT_OFFSET),
        _instruction(_JUMP_SET, _CLONE_THREAD, 1, 0),
        refuse,
        _instruction(_RETURN, _ALLOW),
    ]
    return b"".join(code)


def deny_dangerous_calls() -> None:
    """Install the filter on the calling thread and those that it starts; it cannot be undone.

    `no_new_privileges` must have been set.
    """
    code = program(platform.machine())
    buffer = ctypes.create_string_buffer(code, len(code))
    # struct sock_fprog: a 16-bit count, padding to the pointer, and the pointer.
    fprog = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_MODE_FILTER), fprog, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
