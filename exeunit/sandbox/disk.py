"""Count how much disk a set of directories holds, so that nobody gains by sparse files, links or crumbs.

A file counts as the larger of its length and its blocks (a sparse file could be filled later without another check),
each inode counts extra, and hard links count once. Called by the WASM runtime's quota, by the supervisor's storage
counter and by transfers; all three must agree, so they share this.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

INODE_BYTES: Final = 1024
"""Charged for each inode: the inode itself and its directory entry, rounded up for a half-full directory."""
BLOCK_BYTES: Final = 4096
"""Allocation unit that growth is rounded up to."""


def charge(status: os.stat_result) -> int:
    """Return the bytes that one inode counts."""
    return INODE_BYTES + max(status.st_size, status.st_blocks * 512)


def usage(directories: Iterable[str]) -> int:
    """Return the bytes held beneath these directories; what vanishes or cannot be read meanwhile is left out.

    Never follows a symlink and does not descend into other file systems' mounts any differently. The walk keeps
    one entry of its stack for each directory that is still to be read.
    """
    total = 0
    seen: set[tuple[int, int]] = set()
    pending = list(directories)
    while pending:
        try:
            entries = os.scandir(pending.pop())
        except OSError:
            continue
        with entries:
            for entry in entries:
                try:
                    status = entry.stat(follow_symlinks=False)
                except OSError:
                    continue
                if stat.S_ISDIR(status.st_mode):
                    pending.append(entry.path)
                elif status.st_nlink > 1:
                    key = (status.st_dev, status.st_ino)
                    if key in seen:
                        total += INODE_BYTES
                        continue
                    seen.add(key)
                total += charge(status)
    return total


def unlinked_usage(highest_descriptor: int) -> int:
    """Return the bytes of files that this process holds open though their last name is gone.

    A walk cannot see them, yet they fill the disk until they are closed.
    """
    total = 0
    seen: set[tuple[int, int]] = set()
    for descriptor in range(3, highest_descriptor):
        try:
            status = os.fstat(descriptor)
        except OSError:
            continue
        key = (status.st_dev, status.st_ino)
        if stat.S_ISREG(status.st_mode) and status.st_nlink == 0 and key not in seen:
            seen.add(key)
            total += charge(status)
    return total
