"""Open paths that a stranger names, inside a directory that the stranger can write to.

The kernel does the confining (`openat2` with RESOLVE_BENEATH, NO_SYMLINKS and NO_MAGICLINKS), because any check of a
path in user space can be overtaken by a symlink made between the check and the use. Called by the `container:` scheme.

Errors: `Escape` (a `PermissionError`) when a path would leave its directory or crosses a symlink; else `OSError`.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import struct
from typing import Final

_OPENAT2: Final = 437
_NO_MAGICLINKS: Final = 0x02
_NO_SYMLINKS: Final = 0x04
_BENEATH: Final = 0x08
_RESOLVE: Final = _NO_MAGICLINKS | _NO_SYMLINKS | _BENEATH

_libc = ctypes.CDLL(None, use_errno=True)


class Escape(PermissionError):
    """The path would leave the directory that it is confined to."""


def open_beneath(directory: int, path: str, flags: int, mode: int = 0) -> int:
    """Open `path` relative to the directory descriptor `directory`, and never outside of it.

    Args:
        directory: an open descriptor of the directory to stay in.
        path: relative; symlinks anywhere in it are refused, also those that would stay inside.
        flags: as for `os.open`; close-on-exec is added.
        mode: permissions of a file that is made.

    Raises:
        Escape: the path is absolute, climbs out with `..`, or crosses a symlink.
        OSError: whatever else the kernel says.
    """
    if "\0" in path:
        raise Escape(errno.EINVAL, "the path holds a zero byte", path.replace("\0", "?"))
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, mode, _RESOLVE)
    fd: int = _libc.syscall(
        ctypes.c_long(_OPENAT2), ctypes.c_int(directory), os.fsencode(path), how, ctypes.c_size_t(len(how))
    )
    if fd >= 0:
        return fd
    code = ctypes.get_errno()
    if code in (errno.EXDEV, errno.ELOOP):
        raise Escape(code, "the path leaves its volume or crosses a symlink", path)
    raise OSError(code, os.strerror(code), path)


def make_directories_beneath(directory: int, path: str, mode: int = 0o755) -> int:
    """Open the directory `path` beneath `directory`, making the parts that are missing; return its descriptor."""
    current = os.dup(directory)
    try:
        for part in (part for part in path.split("/") if part not in ("", ".")):
            if part == "..":
                raise Escape(errno.EXDEV, "the path leaves its volume or crosses a symlink", path)
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, mode, dir_fd=current)
            inner = open_beneath(current, part, os.O_RDONLY | os.O_DIRECTORY)
            os.close(current)
            current = inner
    except BaseException:
        os.close(current)
        raise
    return current
