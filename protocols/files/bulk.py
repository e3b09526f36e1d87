"""The bulk socket: how a supervisor moves files without going through the bus.

A unix socket of the node, one token per activity. A connection begins with an `Open` frame (token, node id);
from then on the node copies bytes between the supervisor and a `files` stream to that node, both ways, with
back-pressure, and never looks inside. Control stays on the bus; bulk and control never share a connection.
"""

from __future__ import annotations

import contextlib
import hmac
from typing import TYPE_CHECKING

import trio

from p2p.identity import InvalidNodeId, parse_node_id
from p2p.overlay import OverlayError, Stream, StreamBroken, protocol_id
from protocols.files.core import HeaderReader, encode_header
from protocols.files.errors import FilesError, RemoteFilesError
from protocols.files.messages import CHUNK_BYTES, MAJOR, PROTOCOL, No, Open

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    import structlog.typing

    from p2p.identity import NodeId
    from p2p.overlay import Overlay

MAX_CONNECTIONS = 64
_OPEN_TIMEOUT = 10.0


class BulkSocket:
    """Serves the bulk socket at `path` while `running()` is open."""

    def __init__(
        self,
        path: Path,
        overlay: Overlay,
        log: structlog.typing.FilteringBoundLogger,
        local: Callable[[Stream], Awaitable[None]],
    ) -> None:
        """Make it.

        Args:
            local: serves a stream to this very node, where no overlay stream exists.
        """
        self._path = path
        self._overlay = overlay
        self._log = log
        self._local = local
        self._tokens: set[str] = set()
        self._slots = trio.CapacityLimiter(MAX_CONNECTIONS)

    @property
    def path(self) -> Path:
        """Return where supervisors connect."""
        return self._path

    def allow(self, token: str) -> None:
        """Let a holder of `token` in."""
        self._tokens.add(token)

    def forbid(self, token: str) -> None:
        """Let a holder of `token` in no more."""
        self._tokens.discard(token)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serve; the socket file is removed at the end."""
        self._path.unlink(missing_ok=True)
        listening = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
        try:
            await listening.bind(str(self._path))
            self._path.chmod(0o600)
            listening.listen(MAX_CONNECTIONS)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.serve_listeners, self._serve, [trio.SocketListener(listening)])
                yield
                nursery.cancel_scope.cancel()
        finally:
            listening.close()
            self._path.unlink(missing_ok=True)

    async def _serve(self, local: trio.SocketStream) -> None:
        async with local, self._slots:
            supervisor = _Supervisor(local)
            reason = ""
            # In groups, for what copies both ways is a nursery. Whatever fails costs this transfer alone.
            try:
                await self._connect(supervisor)
            except* (
                FilesError, OverlayError, RemoteFilesError, trio.BrokenResourceError, trio.ClosedResourceError
            ) as group:  # fmt: skip
                reason = str(_first(group)) or "the transfer broke off"
                self._log.info("bulk transfer ended", reason=reason)
            except* Exception as group:
                reason = "internal error of the node; its log says more"
                self._log.error("a bulk transfer failed", exc_info=group)
            if reason and not supervisor.was_told:  # else it would be taken for content
                with trio.move_on_after(_OPEN_TIMEOUT), contextlib.suppress(trio.BrokenResourceError):
                    await supervisor.send_all(encode_header(No(reason[:500])))

    async def _connect(self, local: _Supervisor) -> None:
        with trio.move_on_after(_OPEN_TIMEOUT) as scope:
            opened, rest = await _read_open(local)
        if scope.cancelled_caught:
            return
        token = opened.token.encode()
        if not any(hmac.compare_digest(token, known.encode()) for known in self._tokens):
            raise RemoteFilesError("unknown token")
        try:
            node_id = parse_node_id(opened.node_id)
        except InvalidNodeId as error:
            raise RemoteFilesError(str(error)) from error
        if node_id == self._overlay.node_id:
            near, far = _memory_pair(node_id)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._local, far)
                await _splice(local, near, rest)
            return
        protocol = protocol_id(self._overlay.network, PROTOCOL, MAJOR)
        remote = await self._overlay.open_stream(node_id, protocol)
        try:
            await _splice(local, remote, rest)
        except BaseException:
            remote.reset()
            raise
        await remote.aclose()


class _Supervisor:
    """A supervisor's end of a connection, and whether anything was said to it."""

    def __init__(self, socket: trio.SocketStream) -> None:
        self._socket = socket
        self.was_told = False

    async def receive_some(self) -> bytes:
        return bytes(await self._socket.receive_some(CHUNK_BYTES))

    async def send_all(self, data: bytes) -> None:
        self.was_told = True
        await self._socket.send_all(data)

    async def send_eof(self) -> None:
        await self._socket.send_eof()


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _read_open(local: _Supervisor) -> tuple[Open, bytes]:
    reader = HeaderReader()
    while True:
        data = await local.receive_some()
        if not data:
            raise RemoteFilesError("the connection ended before it said what it wants")
        found = reader.feed(data)
        if found is not None:
            header, rest = found
            if not isinstance(header, Open):
                raise RemoteFilesError(f"a bulk connection begins with Open, not {type(header).__name__}")
            return header, rest


async def _splice(local: _Supervisor, remote: Stream, first: bytes) -> None:
    """Copy both ways until both have finished; the end of one direction is passed on."""

    async def outward() -> None:
        data = first
        while True:
            if data:
                await remote.send_all(data)
            data = await local.receive_some()
            if not data:
                await remote.send_eof()
                return

    async with trio.open_nursery() as nursery:
        nursery.start_soon(outward)
        while data := await remote.receive_some(CHUNK_BYTES):
            await local.send_all(data)
        await local.send_eof()
        nursery.cancel_scope.cancel()  # the answer is complete: what is still being asked does not matter


class _MemoryStream:
    """One end of a stream to ourselves."""

    def __init__(
        self, peer: NodeId, send: trio.MemorySendChannel[bytes], receive: trio.MemoryReceiveChannel[bytes]
    ) -> None:
        self._peer = peer
        self._send = send
        self._receive = receive

    @property
    def peer(self) -> NodeId:
        return self._peer

    async def send_all(self, data: bytes) -> None:
        try:
            await self._send.send(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise StreamBroken("the other end of the transfer has gone") from error

    async def receive_some(self, max_bytes: int = 65536) -> bytes:
        try:
            return await self._receive.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError):
            return b""

    async def send_eof(self) -> None:
        self._send.close()
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        self.reset()
        await trio.lowlevel.checkpoint()

    def reset(self) -> None:
        self._send.close()
        self._receive.close()


def _memory_pair(node_id: NodeId) -> tuple[Stream, Stream]:
    to_far, from_near = trio.open_memory_channel[bytes](2)
    to_near, from_far = trio.open_memory_channel[bytes](2)
    return _MemoryStream(node_id, to_far, from_far), _MemoryStream(node_id, to_near, from_near)
