"""Task packages on disk, by their hash: downloaded once, shared by activities, the longest unused thrown out.

Supervisors of several activities share one directory and know nothing of each other: a download has a name of its own
until its hash was checked, and a rename decides. What a killed supervisor left half-done is told by a lock that only a
living process holds.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING, Final

import trio

from exeunit.transfer.budget import evict_oldest
from exeunit.transfer.errors import BadLocation, LocalFailure
from exeunit.transfer.scheme import PartialFile, Unique
from exeunit.transfer.transfer import Progress, Transfers, no_progress

if TYPE_CHECKING:
    from pathlib import Path

    from exeunit.transfer.location import Location

CACHE_BYTES: Final = 20 << 30
"""What images may fill together."""
MAX_IMAGE_BYTES: Final = 10 << 30

_PARTIAL: Final = ".part"


class ImageCache:
    """Images below one directory."""

    def __init__(
        self, directory: Path, unique: Unique, *, budget: int = CACHE_BYTES, max_image: int = MAX_IMAGE_BYTES
    ) -> None:
        self._directory = directory / "images"
        self._unique = unique
        self._budget = budget
        self._max_image = max_image

    async def get(
        self, transfers: Transfers, location: Location, progress: Progress = no_progress
    ) -> tuple[Path, bool]:
        """Return the file with the image, and whether it was there already.

        Args:
            transfers: fetches it if not.
            location: must carry a hash: it is what an image is known by, and what makes sharing safe.
            progress: told how far the download is.

        Raises:
            TransferError: it cannot be had.
        """
        if location.digest is None:
            raise BadLocation("a task package must be given with its hash, as hash:sha3:HEX:URL")
        path = self._directory / location.digest.hex
        if _renewed(path):
            return path, True
        directory = await trio.to_thread.run_sync(self._open_directory)
        try:
            partial = await trio.to_thread.run_sync(self._begin, directory, path.name)
            try:
                await transfers.fetch(location, partial, progress)
            finally:
                partial.close()
        finally:
            os.close(directory)
        await trio.to_thread.run_sync(
            evict_oldest, str(self._directory), self._budget, frozenset({path.name})
        )
        return path, False

    def _open_directory(self) -> int:
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            return os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise LocalFailure(f"the image cache cannot be used: {error.strerror}") from error

    def _begin(self, directory: int, name: str) -> PartialFile:
        """Remove partial files whose makers are dead, and make a locked one of our own."""
        # Nobody may look for dead ones between the making of a file and its locking.
        fcntl.flock(directory, fcntl.LOCK_EX)
        try:
            for path in self._directory.glob(f"*{_PARTIAL}"):
                with contextlib.suppress(OSError), path.open("rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()
            own = f"{name}.{self._unique()}{_PARTIAL}"
            partial = PartialFile(
                directory, name, partial=own, room=self._max_image, mode=0o600, where="the image"
            )
            partial.lock()
            return partial
        finally:
            fcntl.flock(directory, fcntl.LOCK_UN)


def _renewed(path: Path) -> bool:
    """Mark the file as used just now; false if there is none."""
    try:
        os.utime(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise LocalFailure(f"the image cache cannot be used: {error.strerror}") from error
    return path.is_file() and not path.is_symlink()
