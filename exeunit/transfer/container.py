"""`container:/path`: files in the volumes of an activity, which the guest can write to.

The guest may have planted symlinks there, so nothing is opened by a joined path: the volume is a directory descriptor
and the kernel resolves the rest beneath it (`exeunit.sandbox.beneath`).
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING, NamedTuple

import trio

from exeunit.sandbox.beneath import Escape, make_directories_beneath, open_beneath
from exeunit.transfer.errors import BadLocation, LocalFailure
from exeunit.transfer.location import container_path
from exeunit.transfer.scheme import Download, PartialFile, Unique, read_chunks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence


class Volume(NamedTuple):
    """A directory on this machine that backs a path in the activity."""

    path: str
    """Absolute path as the guest sees it."""
    directory: str
    """Where it is on this machine."""


class ContainerScheme:
    """Source and destination in the volumes."""

    def __init__(
        self, volumes: Callable[[], Sequence[Volume]], room: Callable[[], int], unique: Unique
    ) -> None:
        """Make it.

        Args:
            volumes: the volumes at the moment; none before deploy.
            room: bytes that may still be written, measured; called in a worker thread.
            unique: names for partial files.
        """
        self._volumes = volumes
        self._room = room
        self._unique = unique

    @contextlib.asynccontextmanager
    async def download(self, url: str, offset: int, validator: str | None) -> AsyncIterator[Download]:
        directory, path = self._locate(url)
        fd = _open(directory, path, os.O_RDONLY | os.O_NONBLOCK, url)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise BadLocation(f"{url[:256]} is not a file")
            os.lseek(fd, offset, os.SEEK_SET)
            yield Download(read_chunks(fd), size=status.st_size, offset=offset)
        finally:
            os.close(fd)

    @contextlib.asynccontextmanager
    async def create(self, url: str) -> AsyncIterator[PartialFile]:
        directory, path = self._locate(url)
        *parents, name = path.split("/")
        if not name:
            raise BadLocation(f"{url[:256]} is a volume, not a file in it")
        room = await trio.to_thread.run_sync(self._room)
        volume = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with _mapped(url):
                parent = make_directories_beneath(volume, "/".join(parents))
        finally:
            os.close(volume)
        try:
            partial = PartialFile(parent, name, partial=f".{self._unique()}.part", room=room, where=url[:256])
            try:
                yield partial
            finally:
                partial.close()
        finally:
            os.close(parent)

    def _locate(self, url: str) -> tuple[str, str]:
        """Return the directory of the volume with the longest matching path, and the rest of the path."""
        parts = container_path(url)
        best: tuple[int, str] | None = None
        for volume in self._volumes():
            prefix = tuple(part for part in volume.path.split("/") if part)
            if parts[: len(prefix)] == prefix and (best is None or len(prefix) > best[0]):
                best = (len(prefix), volume.directory)
        if best is None:
            known = ", ".join(sorted(volume.path for volume in self._volumes())) or "none"
            raise BadLocation(f"{url[:256]} lies in no volume of the activity; its volumes: {known}")
        return best[1], "/".join(parts[best[0] :])


@contextlib.contextmanager
def _mapped(url: str) -> Iterator[None]:
    try:
        yield
    except Escape as error:
        raise BadLocation(f"{url[:256]}: {error.strerror}") from error
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise BadLocation(f"{url[:256]}: {error.strerror}") from error
    except OSError as error:
        raise LocalFailure(f"{url[:256]}: {error.strerror or error}") from error


def _open(directory: str, path: str, flags: int, url: str) -> int:
    volume = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with _mapped(url):
            return open_beneath(volume, path or ".", flags)
    finally:
        os.close(volume)
