"""`file:` URLs: plain files of this machine. Never offered to a script; for tests and for `from-file` runs."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from exeunit.transfer.errors import LocalFailure
from exeunit.transfer.scheme import Download, PartialFile, Unique, read_chunks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_ANY_SIZE = 1 << 62


class FileScheme:
    """Source and destination anywhere on this machine."""

    def __init__(self, unique: Unique) -> None:
        self._unique = unique

    @contextlib.asynccontextmanager
    async def download(self, url: str, offset: int, validator: str | None) -> AsyncIterator[Download]:
        try:
            fd = os.open(_path(url), os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise LocalFailure(f"{url[:256]}: {error.strerror}") from error
        try:
            size = os.fstat(fd).st_size
            os.lseek(fd, offset, os.SEEK_SET)
            yield Download(read_chunks(fd), size=size, offset=offset)
        finally:
            os.close(fd)

    @contextlib.asynccontextmanager
    async def create(self, url: str) -> AsyncIterator[PartialFile]:
        directory, name = os.path.split(_path(url))
        try:
            fd = os.open(directory or "/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise LocalFailure(f"{url[:256]}: {error.strerror}") from error
        try:
            partial = PartialFile(fd, name, partial=f".{self._unique()}.part", room=_ANY_SIZE)
            try:
                yield partial
            finally:
                partial.close()
        finally:
            os.close(fd)


def _path(url: str) -> str:
    return unquote(urlsplit(url).path)
