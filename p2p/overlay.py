"""`Overlay`: the one interface to the network that protocols see.

Implementations: `p2p.host` (libp2p) and `p2p.testing.overlay` (in memory, on virtual time). Both pass
`p2p.testing.conformance.check_overlay`. Peers are named by NodeIds, each proven by its session; how a peer is reached
(addresses, relays) is the implementation's affair.

Beside nodes there may be *guests*: foreign libp2p programs that do not serve our hello. They are named by their
PeerId (`16Uiu2...`, `12D3Koo...`), use only the protocols that are served with `guests=True`, and are not in `peers()`.

Errors:
    OverlayError
    ├── PeerUnreachable      no session and none could be made
    ├── ProtocolRefused      the peer does not speak that protocol
    └── StreamBroken         the stream was reset or its session died
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from p2p.identity import NodeId


class OverlayError(Exception):
    """Something on the way to a peer failed."""


class PeerUnreachable(OverlayError):
    """There is no session with the peer and none could be made."""


class ProtocolRefused(OverlayError):
    """The peer does not speak the protocol."""


class StreamBroken(OverlayError):
    """The stream was reset by the peer, or its session died."""


class Stream(Protocol):
    """A two-way byte stream to one peer, with back-pressure. One task may send while another receives."""

    @property
    def peer(self) -> NodeId:
        """Return who is at the other end, as proven by the session. A guest's PeerId where guests are served."""
        ...

    async def send_all(self, data: bytes) -> None:
        """Send all of `data`; waits while the peer's window is full. Raises StreamBroken."""
        ...

    async def receive_some(self, max_bytes: int = 65536) -> bytes:
        """Return at least one byte, or `b""` when the peer has finished sending. Raises StreamBroken."""
        ...

    async def send_eof(self) -> None:
        """Finish sending; receiving goes on."""
        ...

    async def aclose(self) -> None:
        """Finish both ways; unsent data is flushed, unread data is dropped."""
        ...

    def reset(self) -> None:
        """Break the stream off at once; the peer sees StreamBroken."""
        ...


Direction = Literal["in", "out"]
"""Who dialled: the peer, or this node."""
Path = Literal["direct", "relayed"]
"""Whether a session goes through a relay."""


class PeerInfo(msgspec.Struct, frozen=True):
    """A peer with whom there is a session."""

    node_id: str
    """Who it is, proven: a node's NodeId, or a guest's PeerId."""
    address: str
    """Where, as a multiaddr (`/ip4/127.0.0.1/tcp/4001`), or `memory` in a simulation."""
    direction: Direction
    """Who dialled."""
    since_ns: int
    """UTC nanoseconds when the session began."""
    agent: str = ""
    """What software it says it is, unproven."""
    rtt: float | None = None
    """Seconds of a round trip, smoothed, once it was measured."""
    path: Path = "direct"
    """Whether the session goes through a relay."""
    peer_id: str = ""
    """Its libp2p PeerId, proven; empty in a simulation."""


class PeerChange(msgspec.Struct, frozen=True):
    """A session with a peer began or ended."""

    node_id: str
    connected: bool


StreamHandler = Callable[[Stream], Awaitable[None]]
"""Serves one inbound stream and returns when done; what it raises resets that stream and is logged."""


class Overlay(Protocol):
    """The network as protocols see it. Usable while its `running()` context of the implementation is open."""

    @property
    def node_id(self) -> NodeId:
        """Return who we are."""
        ...

    @property
    def network(self) -> str:
        """Return the overlay's network, such as `devnet`: part of every protocol id and topic of ours."""
        ...

    def listen_addresses(self) -> Sequence[str]:
        """Return where others can dial us: multiaddrs that end in `/p2p/<peer id>`."""
        ...

    def peers(self) -> Sequence[PeerInfo]:
        """Return the nodes with whom there is a session, in a stable order."""
        ...

    def guests(self) -> Sequence[PeerInfo]:
        """Return the guests with whom there is a session, in a stable order."""
        ...

    def aliases_of(self, peer: NodeId) -> frozenset[NodeId]:
        """Return the further NodeIds that `peer` has proven to speak for, beside its own (`p2p.identity.alias`)."""
        ...

    async def connect(self, address: str) -> NodeId:
        """Make a session with whoever is at `address`; return who it is. Raises PeerUnreachable."""
        ...

    async def disconnect(self, peer: str) -> None:
        """End the session with `peer`, if there is one."""
        ...

    async def open_stream(self, peer: str, protocol: str) -> Stream:
        """Open a stream to `peer`, making a session from known addresses if there is none.

        Args:
            peer: a NodeId, or an alias of a node (`Stream.peer` is the node's own), or the PeerId of a guest
                with whom there is a session.
            protocol: a protocol id as `protocol_id` forms it.

        Raises:
            PeerUnreachable: no session, and no known address answers.
            ProtocolRefused: the peer does not serve `protocol`.
        """
        ...

    def serve(self, protocol: str, handler: StreamHandler, *, guests: bool = False) -> None:
        """Serve inbound streams of `protocol`; each handler call is a task of the overlay.

        Args:
            guests: whether guests may use it too; then `Stream.peer` may be a PeerId.
        """
        ...

    def subscribe_peers(
        self, listener: Callable[[PeerChange], None], *, guests: bool = False
    ) -> Callable[[], None]:
        """Call `listener`, which must not block, when a session begins or ends; returns how to stop.

        Args:
            guests: whether to tell of guests too.
        """
        ...


def is_guest(peer: str) -> bool:
    """Return whether a peer's name is a guest's PeerId and not a NodeId."""
    return not peer.startswith("0x")


def protocol_id(network: str, protocol: str, major: int) -> str:
    """Return the id of a protocol of ours: `/golem-p2p/<network>/<protocol>/<major>`."""
    return f"/golem-p2p/{network}/{protocol}/{major}"
