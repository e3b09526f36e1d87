"""Sessions and streams of ours in the shape that py-libp2p's host knows: for its books and its identify.

Nothing else passes here: the streams of our own protocols are `p2p.session.MuxedStream`s from end to end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio
from libp2p.abc import ConnectionType, IMuxedConn, IMuxedStream
from libp2p.peer.id import ID
from libp2p.stream_muxer.exceptions import MuxedConnUnavailable, MuxedStreamEOF, MuxedStreamReset
from multiaddr import Multiaddr
from multiaddr.exceptions import Error as MultiaddrError

from p2p.overlay import StreamBroken

if TYPE_CHECKING:
    from p2p.session import MuxedStream, Session


class StockConnection(IMuxedConn):  # type: ignore[misc] # no type information upstream
    """A session as a muxed connection. Opens no streams: this node opens its own.

    Args:
        address: where the other end is, as a multiaddr; one of a relay contains `/p2p-circuit`.
    """

    def __init__(self, session: Session, address: str, *, initiator: bool) -> None:
        key = session.peer_key.encode()
        self.peer_id = ID(bytes((0x00, len(key))) + key)
        self.event_started = trio.Event()
        self.event_started.set()
        self._session = session
        self._initiator = initiator
        self._address = address

    @property
    def is_initiator(self) -> bool:
        return self._initiator

    @property
    def is_established(self) -> bool:
        return not self.is_closed

    @property
    def is_closed(self) -> bool:
        return self._session.ended is not None

    async def start(self) -> None:
        """Do nothing: the overlay runs the session."""

    async def close(self) -> None:
        await self._session.aclose()

    async def open_stream(self) -> IMuxedStream:
        raise MuxedConnUnavailable("streams are opened by the overlay")

    async def accept_stream(self) -> IMuxedStream:
        raise MuxedConnUnavailable("streams are accepted by the overlay")

    def get_transport_addresses(self) -> list[Multiaddr]:
        try:
            return [Multiaddr(self._address)]
        except MultiaddrError:  # what carries it has no such address
            return []

    def get_connection_type(self) -> ConnectionType:
        return ConnectionType.RELAYED if "/p2p-circuit" in self._address else ConnectionType.DIRECT

    def get_remote_address(self) -> tuple[str, int] | None:
        """Return the other end's IP address and port."""
        parts = self._address.split("/")
        if len(parts) < 5 or parts[1] not in ("ip4", "ip6") or parts[3] != "tcp":
            return None
        return parts[2], int(parts[4])


class StockStream(IMuxedStream):  # type: ignore[misc] # no type information upstream
    """A stream that a stock handler serves."""

    def __init__(self, stream: MuxedStream, connection: StockConnection) -> None:
        self.muxed_conn = connection
        self._stream = stream

    async def read(self, n: int | None = None) -> bytes:
        try:
            data = await self._stream.receive_some(65536 if n is None or n < 0 else n)
        except (StreamBroken, trio.ClosedResourceError) as error:
            raise MuxedStreamReset(str(error)) from error
        if not data:
            raise MuxedStreamEOF
        return data

    async def write(self, data: bytes) -> None:
        try:
            await self._stream.send_all(data)
        except (StreamBroken, trio.ClosedResourceError) as error:
            raise MuxedStreamReset(str(error)) from error

    async def close(self) -> None:
        await self._stream.aclose()

    async def close_write(self) -> None:
        """Finish sending; stock streams take `close` for that."""
        try:
            await self._stream.send_eof()
        except (StreamBroken, trio.ClosedResourceError) as error:
            raise MuxedStreamReset(str(error)) from error

    async def reset(self) -> None:
        self._stream.reset()

    def set_deadline(self, ttl: int) -> None:
        """Do nothing: whoever serves a stream bounds its time."""

    def get_remote_address(self) -> tuple[str, int] | None:
        address: tuple[str, int] | None = self.muxed_conn.get_remote_address()
        return address

    async def __aenter__(self) -> Any:
        return self
