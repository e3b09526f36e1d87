"""gftp over the node's bulk socket: one connection a transfer, which the node splices to the peer.

The conversation is `protocols.files`: an `Open` frame with our token and the node, then `Get` or `Put`. Bound to
`GftpScheme` by the supervisor's command line.
"""

from __future__ import annotations

import contextlib
import hashlib
from typing import TYPE_CHECKING

import trio

from exeunit.transfer.errors import LocalFailure, RemoteFailure, Transient
from exeunit.transfer.scheme import CHUNK_BYTES, Download
from protocols.files.core import encode_header, read_header
from protocols.files.errors import Refused, RemoteFilesError
from protocols.files.messages import Found, Get, Header, No, Open, Put, Stored

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


class BulkSocket:
    """Opens transfers through the node's bulk socket."""

    def __init__(self, path: str, token: str) -> None:
        """Make it.

        Args:
            path: of the unix socket.
            token: the one that the node gave to this activity.
        """
        self._path = path
        self._token = token

    @contextlib.asynccontextmanager
    async def download(self, node_id: str, name: str, offset: int) -> AsyncIterator[Download]:
        """Open a file of another node; see `gftp.OpenDownload`."""
        with _mapped():
            async with await self._connect(node_id) as stream:
                await stream.send_all(encode_header(Get(name, offset)))
                await stream.send_eof()
                header, rest = await read_header(stream)
                size = _found(header).size
                yield Download(_chunks(stream, rest), size=size, offset=offset, validator=name)

    async def upload(self, node_id: str, name: str, size: int | None, chunks: AsyncIterator[bytes]) -> None:
        """Fill a slot of another node; see `gftp.OpenUpload`."""
        if size is None:
            raise RemoteFailure("gftp takes only content whose size is known beforehand")
        digest = hashlib.sha3_256()
        with _mapped():
            async with await self._connect(node_id) as stream:
                await stream.send_all(encode_header(Put(name, size)))
                _found((await read_header(stream))[0])
                async for chunk in chunks:
                    digest.update(chunk)
                    await stream.send_all(chunk)
                await stream.send_eof()
                answer, _ = await read_header(stream)
        if isinstance(answer, No):
            raise RemoteFailure(f"the other node refused the file: {answer.message}")
        if not isinstance(answer, Stored) or answer.sha3 != digest.hexdigest():
            raise Transient("what the other node stored is not what was sent")

    async def _connect(self, node_id: str) -> trio.SocketStream:
        try:
            stream = await trio.open_unix_socket(self._path)
        except OSError as error:
            raise LocalFailure(f"the node's bulk socket cannot be reached: {error.strerror}") from error
        try:
            await stream.send_all(encode_header(Open(self._token, node_id)))
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return stream


def _found(header: Header) -> Found:
    if isinstance(header, No):
        raise Refused(header.message)
    if not isinstance(header, Found):
        raise RemoteFailure(f"the other node answered with {type(header).__name__}")
    return header


async def _chunks(stream: trio.SocketStream, first: bytes) -> AsyncIterator[bytes]:
    with _mapped():
        chunk = first or await stream.receive_some(CHUNK_BYTES)
        while chunk:
            yield chunk
            chunk = await stream.receive_some(CHUNK_BYTES)


@contextlib.contextmanager
def _mapped() -> Iterator[None]:
    try:
        yield
    except Refused as error:
        raise RemoteFailure(f"the other node refused: {error}") from error
    except (RemoteFilesError, trio.BrokenResourceError) as error:
        raise Transient(f"the transfer broke off: {error or 'the connection ended'}") from error
