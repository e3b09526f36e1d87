"""What a URL scheme is to a transfer, and the file that a download grows in.

A scheme implements as much of this as it can: `download` to be a source, `upload` to be a destination of a stream,
`create` to be a destination on this machine (which alone can be resumed and checked before it counts). Third parties
may add schemes; ours are in the modules beside.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol, runtime_checkable

import trio

from exeunit.transfer.errors import LocalFailure, NoRoom

CHUNK_BYTES: Final = 256 * 1024


class Download:
    """An open source."""

    def __init__(
        self,
        chunks: AsyncIterator[bytes],
        *,
        size: int | None,
        offset: int = 0,
        validator: str | None = None,
    ) -> None:
        self.chunks = chunks
        """The content from `offset` on, in non-empty pieces."""
        self.size = size
        """Bytes of the whole content, if known."""
        self.offset = offset
        """Where the pieces begin: what was asked for, or 0 if the source cannot resume."""
        self.validator = validator
        """To be given back when resuming, so that a changed source is noticed."""


@runtime_checkable
class Source(Protocol):
    """A scheme that can be read."""

    def download(self, url: str, offset: int, validator: str | None) -> AbstractAsyncContextManager[Download]:
        """Open `url`, at `offset` if that is possible. Raises TransferError."""
        ...


@runtime_checkable
class Sink(Protocol):
    """A scheme that takes a stream."""

    async def upload(self, url: str, size: int | None, chunks: AsyncIterator[bytes]) -> None:
        """Write all chunks to `url`; returns when the other side has them. Raises TransferError."""
        ...


@runtime_checkable
class LocalSink(Protocol):
    """A scheme that takes a file on this machine."""

    def create(self, url: str) -> AbstractAsyncContextManager[PartialFile]:
        """Begin a new file for `url`; nothing is seen under its name before `commit`. Raises TransferError."""
        ...


class PartialFile:
    """A file that is being written beside its place, and takes it when it is whole."""

    def __init__(
        self, directory: int, name: str, *, partial: str, room: int, mode: int = 0o644, where: str = ""
    ) -> None:
        """Make the partial file.

        Args:
            directory: descriptor of the directory, which stays the caller's to close.
            name: what the file will be called in it.
            partial: what it is called until then.
            room: most bytes that it may have.
            mode: permissions.
            where: for messages.
        """
        self._directory = directory
        self._name = name
        self._partial = partial
        self._room = room
        self._where = where or name
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with self._mapped():
            self._fd = os.open(partial, flags, mode, dir_fd=directory)
        self.size = 0
        """Bytes written so far."""
        self._committed = False

    @contextlib.contextmanager
    def _mapped(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise LocalFailure(f"cannot write {self._where}: {error.strerror or error}") from error

    def lock(self) -> None:
        """Hold a lock on the file until it is closed: the sign that its maker is alive."""
        with self._mapped():
            fcntl.flock(self._fd, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def check_room(self, size: int) -> None:
        """Refuse a content of `size` bytes that would not fit. Raises NoRoom."""
        if size > self._room:
            raise NoRoom(
                f"{self._where}: {size} bytes do not fit into the {max(0, self._room)} that are left"
            )

    async def write(self, data: bytes) -> None:
        """Append `data`. Raises NoRoom or LocalFailure."""
        self.check_room(self.size + len(data))
        view = memoryview(data)
        with self._mapped():
            while view:
                written = await trio.to_thread.run_sync(os.write, self._fd, view)
                view = view[written:]
                self.size += written

    def restart(self) -> None:
        """Throw away what was written."""
        with self._mapped():
            os.ftruncate(self._fd, 0)
            os.lseek(self._fd, 0, os.SEEK_SET)
        self.size = 0

    def commit(self) -> None:
        """Give the file its name, replacing what has it."""
        with self._mapped():
            os.rename(self._partial, self._name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        self._committed = True

    def close(self) -> None:
        """Close the file, and remove it unless it was committed."""
        os.close(self._fd)
        if not self._committed:
            with contextlib.suppress(OSError):
                os.unlink(self._partial, dir_fd=self._directory)


async def read_chunks(fd: int) -> AsyncIterator[bytes]:
    """Yield the rest of the file behind a descriptor, reading in a thread."""
    while chunk := await trio.to_thread.run_sync(os.read, fd, CHUNK_BYTES):
        yield chunk


Unique = Callable[[], str]
"""Returns a fresh name for a partial file."""
