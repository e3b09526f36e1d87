"""A session of the host: `p2p.session.Session` with what the overlay knows of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from p2p.host.limits import Held
from p2p.overlay import PeerUnreachable, StreamBroken, is_guest
from p2p.session import TooManyStreams

if TYPE_CHECKING:
    from p2p.host.stock import StockConnection
    from p2p.metrics import TrafficTable
    from p2p.overlay import Direction, Path
    from p2p.reach.identify_wire import Identified
    from p2p.session import MuxedStream, Session

NEGOTIATION_TIMEOUT = 10.0
"""Seconds to agree on a stream's protocol."""

STANDING = "/meshsub/"
"""Protocols whose streams stay open with every peer, whether or not anything is said: they are no use of a session."""


class HostSession:
    """A session with a proven peer.

    Args:
        peer: the name of who is at the other end.
        address: where, as a multiaddr.
        direction: who dialled.
        arrived_from: the IP address by which the connection is counted, if it arrived here.
    """

    __slots__ = (
        "address",
        "arrived_from",
        "connection",
        "direction",
        "identified",
        "kept",
        "local_port",
        "path",
        "peer",
        "since",
        "traffic",
        "wire",
    )

    def __init__(
        self,
        wire: Session,
        peer: str,
        address: str,
        direction: Direction,
        path: Path,
        since: float,
        arrived_from: str | None = None,
    ) -> None:
        self.wire = wire
        """What carries it."""
        self.peer = peer
        self.address = address
        self.direction = direction
        self.path = path
        self.since = since
        """When it began, on trio's clock."""
        self.arrived_from = arrived_from
        self.local_port = wire.local_port
        """The port at this end, if it is a TCP connection."""
        self.traffic: TrafficTable | None = None
        """Where what its streams carry is counted."""
        self.connection: StockConnection | None = None
        """Its entry in libp2p's books."""
        self.kept = False
        """Whether it is of use though it carries no stream: the peer relays for this node, or this node for it."""
        self.identified: Identified | None = None
        """What the peer said of itself and of this node, if it was asked."""

    def __repr__(self) -> str:
        return f"<HostSession with {self.peer}, {self.direction}, {self.path}>"

    @property
    def closed(self) -> bool:
        """Return whether it has ended."""
        return self.wire.ended is not None

    def held(self) -> Held[HostSession]:
        """Return what it is worth when there are too many."""
        return Held(
            key=self,
            guest=is_guest(self.peer),
            inbound=self.direction == "in",
            relayed=self.path == "relayed",
            streams=sum(not p.startswith(STANDING) for p in self.wire.speaking) + self.kept,
            since=self.since,
        )

    def become_guest(self) -> None:
        """Name the peer by its PeerId from now on."""
        self.peer = self.wire.name = self.wire.peer_id

    async def open_hello(self, protocol: str) -> MuxedStream:
        """Open the first stream of a session: what it says need not wait until the peer has agreed to it."""
        return await self.open_stream(protocol, lazy=True)

    async def open_stream(self, protocol: str, *, lazy: bool | None = None) -> MuxedStream:
        """Open a stream and agree on its protocol; without a round trip if the peer has agreed to it before.

        Args:
            lazy: as for `Session.open_stream`.

        Raises:
            ProtocolRefused: the peer does not serve it.
            StreamBroken: the session ended, or the peer did not answer in time.
            PeerUnreachable: this node has too many streams to that peer.
        """
        try:
            with trio.fail_after(NEGOTIATION_TIMEOUT):
                stream = await self.wire.open_stream(protocol, lazy=lazy)
        except trio.TooSlowError as error:
            raise StreamBroken(
                f"{self.peer} did not answer to {protocol} within {NEGOTIATION_TIMEOUT:g} s"
            ) from error
        except TooManyStreams as error:
            raise PeerUnreachable(f"{self.peer} is busy: {error}") from error
        self.count(stream, opened=True)
        return stream

    def count(self, stream: MuxedStream, *, opened: bool) -> None:
        """Have a stream's bytes counted with those of its class, now that it is known what it speaks.

        Args:
            opened: whether this end opened it.
        """
        if self.traffic is None:
            return
        traffic = self.traffic.of(stream.protocol)
        stream.count_with(traffic)
        if opened:
            traffic.opened += 1
        else:
            traffic.accepted += 1

    async def close(self, drain: float = 0.0) -> None:
        """End it: a goodbye, what is queued, and the connection; within `drain` + 1 seconds."""
        await self.wire.aclose(drain)
