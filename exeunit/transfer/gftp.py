"""`gftp://<node id>/<name>`: files of other nodes.

How the bytes travel is the node's affair; this scheme is given two functions that open a transfer (`bulk` makes them
for the node's bulk socket). A name of 64 hex digits is the SHA3-256 of the content, and is held to that.
"""

from __future__ import annotations

import contextlib
import re
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Final, Protocol

from exeunit.transfer.errors import BadLocation
from exeunit.transfer.location import Digest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from exeunit.transfer.scheme import Download

_URL: Final = re.compile(r"gftp://(0x[0-9a-fA-F]{40})/([0-9A-Za-z]{1,128})")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class OpenDownload(Protocol):
    """Opens a file of another node."""

    def __call__(self, node_id: str, name: str, offset: int) -> AbstractAsyncContextManager[Download]:
        """Open `name` at `node_id` from `offset` on. Raises TransferError."""
        ...


class OpenUpload(Protocol):
    """Sends a file to another node."""

    async def __call__(self, node_id: str, name: str, size: int | None, chunks: AsyncIterator[bytes]) -> None:
        """Fill the slot `name` at `node_id`; returns when the other node has it all. Raises TransferError."""
        ...


class GftpScheme:
    """Source and destination on other nodes."""

    def __init__(self, open_download: OpenDownload, open_upload: OpenUpload) -> None:
        self._open_download = open_download
        self._open_upload = open_upload

    @contextlib.asynccontextmanager
    async def download(self, url: str, offset: int, validator: str | None) -> AsyncIterator[Download]:
        node_id, name = parse_gftp(url)
        # Only content that is its own checksum can be continued: a slot's file may change between two tries.
        resume = offset if promised_digest(url) is not None else 0
        async with self._open_download(node_id, name, resume) as download:
            yield download

    async def upload(self, url: str, size: int | None, chunks: AsyncIterator[bytes]) -> None:
        node_id, name = parse_gftp(url)
        await self._open_upload(node_id, name, size, chunks)


def parse_gftp(url: str) -> tuple[str, str]:
    """Return the node id, in lower case, and the name. Raises BadLocation."""
    match = _URL.fullmatch(url)
    if match is None:
        raise BadLocation(f"{url[:160]!r} is not gftp://0x<40 hex digits>/<name>")
    return match[1].lower(), match[2]


def promised_digest(url: str) -> Digest | None:
    """Return the digest that a gftp URL's own name promises, if it does."""
    _, name = parse_gftp(url)
    return Digest(name) if _DIGEST.fullmatch(name) else None
