"""Keep a directory of regenerable files under a byte budget, the longest unused first.

Used for images and for compiled modules. "Used" is the file's modification time, which whoever reads a file renews.
"""

from __future__ import annotations

import contextlib
import os
import stat


def evict_oldest(directory: str, budget: int, keep: frozenset[str] = frozenset()) -> list[str]:
    """Remove the longest unused files of `directory` until the rest fits into `budget` bytes.

    Args:
        directory: only its own files count, not what lies deeper; one that is missing is empty.
        budget: bytes that may stay.
        keep: names that stay whatever their age.

    Returns:
        Names of the removed files, oldest first.
    """
    files: list[tuple[float, int, str]] = []
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(status.st_mode):
                        files.append((status.st_mtime, status.st_size, entry.name))
    except FileNotFoundError:
        return []
    excess = sum(size for _, size, _ in files) - budget
    removed = []
    for _, size, name in sorted(files):
        if excess <= 0:
            break
        if name in keep:
            continue
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(directory, name))
        removed.append(name)
        excess -= size
    return removed
