"""Landlock: a process gives up the file system but for a few directories, and TCP.

Raw system calls through ctypes, since glibc has no wrappers. Called by `confinement`; knows nothing of what is
being confined. The rights and their ABI versions are from the kernel's `uapi/linux/landlock.h`.

Errors: `OSError` when the kernel refuses; `abi_version()` is 0 where it has no Landlock.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_CREATE_RULESET: Final = 444
_ADD_RULE: Final = 445
_RESTRICT_SELF: Final = 446
_QUERY_VERSION: Final = 1
_RULE_PATH_BENEATH: Final = 1

_EXECUTE: Final = 1 << 0
_WRITE_FILE: Final = 1 << 1
_READ_FILE: Final = 1 << 2
_READ_DIR: Final = 1 << 3
_TRUNCATE: Final = 1 << 14
_READ: Final = _READ_FILE | _READ_DIR
_FILE_RIGHTS: Final = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE
"""Rights that make sense on something that is not a directory; others are refused with EINVAL."""

_FS_RIGHTS: Final = ((1, 13), (2, 14), (3, 15), (5, 16))
"""From this ABI on, so many file system rights exist (they are the low bits of the mask)."""
_NET_ABI: Final = 4
_NET_RIGHTS: Final = 0b11
"""Bind and connect of TCP sockets."""
_SCOPE_ABI: Final = 6
_SCOPES: Final = 0b11
"""Abstract unix sockets, and signals to processes outside."""

_libc = ctypes.CDLL(None, use_errno=True)


def _syscall(number: int, *args: object) -> int:
    result: int = _libc.syscall(ctypes.c_long(number), *args)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def abi_version() -> int:
    """Return the kernel's Landlock ABI, or 0 if it has none or it is switched off."""
    try:
        return _syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_QUERY_VERSION))
    except OSError:
        return 0


def restrict(readable: Sequence[str], writable: Sequence[str]) -> int:
    """Confine the calling thread, and those that it starts, to files beneath some paths; return the ABI used.

    `readable` may be read, `writable` may also be changed in every way; what does not exist is left out, and all
    other paths can no longer be opened at all. TCP and signals to outsiders are refused where the ABI has that.
    `no_new_privileges` must have been set. It cannot be undone.

    Raises:
        OSError: the kernel has no Landlock, or refused.
    """
    abi = abi_version()
    if abi == 0:
        raise OSError(0, "this kernel has no Landlock")
    fs_rights = (1 << max(bits for since, bits in _FS_RIGHTS if abi >= since)) - 1
    attributes = struct.pack("=Q", fs_rights)
    if abi >= _NET_ABI:
        attributes += struct.pack("=Q", _NET_RIGHTS)
    if abi >= _SCOPE_ABI:
        attributes += struct.pack("=Q", _SCOPES)
    ruleset = _syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0))
    try:
        for path in readable:
            _allow(ruleset, path, _READ & fs_rights)
        for path in writable:
            _allow(ruleset, path, fs_rights & ~_EXECUTE)
        _syscall(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    finally:
        os.close(ruleset)
    return abi


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            rights &= _FILE_RIGHTS
        rule = struct.pack("=Qi", rights, fd)
        _syscall(_ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(_RULE_PATH_BENEATH), rule, ctypes.c_uint32(0))
    finally:
        os.close(fd)
