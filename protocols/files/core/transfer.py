"""Moves one file over one byte stream, for both ends, whatever the stream is (peer, unix socket, memory)."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Protocol

from protocols.files.core.rules import ContentCheck, HeaderReader, encode_header
from protocols.files.errors import Refused, TransferBroken
from protocols.files.messages import CHUNK_BYTES, Found, Get, Header, No, Put, Stored

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator


class ByteStream(Protocol):
    """What a transfer needs of a stream."""

    async def send_all(self, data: bytes) -> None: ...

    async def receive_some(self, max_bytes: int = 65536) -> bytes: ...

    async def send_eof(self) -> None: ...


class File(Protocol):
    """What a transfer needs of an open file: trio's async files have it."""

    async def read(self, size: int, /) -> bytes: ...

    async def write(self, data: bytes, /) -> int: ...


async def read_header(stream: ByteStream, first: bytes = b"") -> tuple[Header, bytes]:
    """Return the next frame and the bytes that came with it. Raises TransferBroken.

    Args:
        first: bytes that came with the frame before.
    """
    reader = HeaderReader()
    found = reader.feed(first)
    while found is None:
        data = await stream.receive_some(65536)
        if not data:
            raise TransferBroken("the stream ended before a header came")
        found = reader.feed(data)
    return found


async def download(stream: ByteStream, name: str) -> AsyncGenerator[bytes, None]:
    """Ask for `name` and yield its content, checked; the caller closes the generator and the stream.

    Raises:
        Refused: the peer has no such file.
        TransferBroken: it ended early or is not what its name says.
    """
    await stream.send_all(encode_header(Get(name)))
    await stream.send_eof()
    header, rest = await read_header(stream)
    check = ContentCheck(name, _found(header).size)
    chunk = rest
    while True:
        if chunk:
            check.feed(chunk)
            yield chunk
        chunk = await stream.receive_some(CHUNK_BYTES)
        if not chunk:
            check.finish()
            return


async def upload(stream: ByteStream, name: str, size: int, chunks: AsyncIterator[bytes]) -> None:
    """Send `size` bytes into the slot `name`.

    Raises:
        Refused: the peer has no such slot.
        TransferBroken: the peer stored something else than was sent.
    """
    await stream.send_all(encode_header(Put(name, size)))
    header, rest = await read_header(stream)
    _found(header)
    digest = hashlib.sha3_256()
    async for chunk in chunks:
        digest.update(chunk)
        await stream.send_all(chunk)
    await stream.send_eof()
    header, _ = await read_header(stream, rest)
    if isinstance(header, No):
        raise Refused(header.message)
    if not isinstance(header, Stored) or header.sha3 != digest.hexdigest():
        raise TransferBroken("what the peer stored is not what was sent")


def _found(header: Header) -> Found:
    if isinstance(header, No):
        raise Refused(header.message)
    if not isinstance(header, Found):
        raise TransferBroken(f"expected an answer to the request, got {type(header).__name__}")
    return header


async def send_file(stream: ByteStream, file: File, size: int) -> None:
    """Answer a `Get`: announce the size, then the bytes of an open trio file."""
    await stream.send_all(encode_header(Found(size)))
    while chunk := await file.read(CHUNK_BYTES):
        await stream.send_all(chunk)
    await stream.send_eof()
