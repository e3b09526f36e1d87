"""A session on libp2p: one connection with its writer, and streams opened and accepted on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from p2p.host.multistream import select
from p2p.host.muxer import FrameWriter
from p2p.host.streams import YamuxStream
from p2p.overlay import StreamBroken

if TYPE_CHECKING:
    from p2p.identity import NodeId

NEGOTIATION_TIMEOUT = 10.0
"""Seconds to agree on a stream's protocol."""
CLOSE_TIMEOUT = 1.0
"""Seconds that a connection may take to say goodbye."""
MAX_INBOUND_STREAMS = 256
"""Streams that one peer may have open to this node on one session; further ones are reset."""
_SPARE_STREAMS = 8
_POLL = 0.01


class HostSession:
    """A connection that Noise has proven to be with `peer`.

    Args:
        connection: stock `SwarmConn`.
        peer: who is at the other end.
    """

    def __init__(self, connection: Any, peer: NodeId, nursery: trio.Nursery) -> None:
        self.connection = connection
        self.peer = peer
        self.inbound_streams = 0
        self._nursery = nursery
        self._muxed = connection.muxed_conn
        self._opening = 0
        self._writer = FrameWriter(hang=self.close_soon)

    def __repr__(self) -> str:
        return f"<HostSession with {self.peer}>"

    @property
    def closed(self) -> bool:
        """Return whether the connection has ended."""
        return bool(self.connection.is_closed or self._muxed.event_shutting_down.is_set())

    async def run(self) -> None:
        """Write what streams have to write, until the connection ends."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._writer.run)
            await self.connection.event_closed.wait()
            nursery.cancel_scope.cancel()

    def stream(self, muxed: Any) -> YamuxStream:
        """Return one of the connection's muxed streams as a stream of ours."""
        return YamuxStream(muxed, self._writer, self.peer)

    async def open_stream(self, protocol: str) -> YamuxStream:
        """Open a stream and agree on its protocol.

        Raises:
            ProtocolRefused: the peer does not serve it.
            StreamBroken: the session ended, or the peer did not answer in time.
        """
        stream = await self._open()
        try:
            with trio.fail_after(NEGOTIATION_TIMEOUT):
                await select(stream, protocol)
        except trio.TooSlowError as error:
            stream.reset()
            raise StreamBroken(
                f"{self.peer} did not answer to {protocol} within {NEGOTIATION_TIMEOUT:g} s"
            ) from error
        except BaseException:
            stream.reset()
            raise
        return stream

    async def _open(self) -> YamuxStream:
        # Stock yamux waits for a free slot while it holds the writer: so wait before.
        while self._muxed.stream_backlog_semaphore.value <= self._opening + _SPARE_STREAMS:
            if self.closed:
                raise StreamBroken(f"the session with {self.peer} ended")
            await trio.sleep(_POLL)
        opened: list[YamuxStream] = []
        wanted = True

        async def opening() -> None:
            try:
                opened.append(self.stream(await self._muxed.open_stream()))
                if not wanted:
                    opened[0].reset()
            finally:
                self._opening -= 1

        self._opening += 1
        job = self._writer.submit(opening)
        try:
            await job.finished()
        except BaseException:
            wanted = False
            if opened:
                opened[0].reset()
            raise
        return opened[0]

    def close_soon(self) -> None:
        """End the connection, in a task of its own."""
        self._nursery.start_soon(self.close)

    async def close(self) -> None:
        """End the connection: a goodbye if the peer takes it in time, then the socket.

        The socket is closed here as well, because a stock close that is cancelled has marked the connection as
        closed before it was.
        """
        with trio.move_on_after(CLOSE_TIMEOUT) as scope:
            scope.shield = True
            await self.connection.close()
        with trio.move_on_after(CLOSE_TIMEOUT) as scope:
            scope.shield = True
            await self._muxed.secured_conn.close()


def remote_address(connection: Any) -> str:
    """Return where a connection's other end is, as a multiaddr; empty when that cannot be found out."""
    addresses = connection.get_transport_addresses()
    return str(addresses[0]) if addresses else ""
