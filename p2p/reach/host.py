"""What reach needs of whoever makes connections: sessions as links, streams on one particular link, and dialling.

`p2p.host.reach` implements it on the real overlay, the tests in memory. Unlike `p2p.overlay.Overlay`, which knows
peers, this interface knows each session apart: which one is relayed, and where its other end is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from contextlib import AbstractAsyncContextManager

    import trio

    from p2p.overlay import Direction, Path, Stream
    from p2p.session import IdentityKey


class Link(Protocol):
    """A session with a node that was admitted."""

    @property
    def peer(self) -> str:
        """Return who is at the other end: its NodeId."""
        ...

    @property
    def peer_id(self) -> str:
        """Return its PeerId, for the wire."""
        ...

    @property
    def address(self) -> str:
        """Return where the other end is, as a multiaddr; of a relayed link `.../p2p-circuit`."""
        ...

    @property
    def direction(self) -> Direction:
        """Return who dialled."""
        ...

    @property
    def path(self) -> Path:
        """Return how it goes."""
        ...

    @property
    def from_listening_port(self) -> bool:
        """Return whether this end dialled from the port that it listens on, so that a NAT shows how it maps that."""
        ...

    @property
    def closed(self) -> bool:
        """Return whether it has ended."""
        ...

    async def open_stream(self, protocol: str) -> Stream:
        """Open a stream on this link. Raises OverlayError."""
        ...

    async def retire(self) -> None:
        """Take no new streams, let those that are open finish for a while, then close."""
        ...


LinkHandler = Callable[["Stream", Link], Awaitable[None]]
"""Serves one inbound stream of a link."""


class ReachHost(Protocol):
    """Whoever makes connections."""

    @property
    def peer_id(self) -> str:
        """Return this node's PeerId."""
        ...

    @property
    def key(self) -> IdentityKey:
        """Return this node's identity, to sign vouchers."""
        ...

    def listening(self) -> Sequence[str]:
        """Return where this node listens: multiaddrs of its interfaces, without its peer."""
        ...

    def links(self) -> Sequence[Link]:
        """Return all sessions with admitted nodes, oldest first."""
        ...

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener`, which must not block, when links come or go; returns how to stop."""
        ...

    def serve(self, protocol: str, handler: LinkHandler, *, before_hello: bool = False) -> None:
        """Serve a protocol.

        Args:
            before_hello: also on sessions whose peer has not said hello, and may never.
        """
        ...

    def withdraw(self, protocol: str) -> None:
        """Serve a protocol no longer."""
        ...

    def announce(self, addresses: Sequence[str]) -> None:
        """Tell peers of these addresses too, beside those that are listened on; replaces what was announced before."""
        ...

    def keep(self, peers: Collection[str]) -> None:
        """Do not end direct links with these nodes to make room for others; replaces what was said before."""
        ...

    def acceptable(self, address: str) -> bool:
        """Return whether an address that a peer told may be dialled in this network."""
        ...

    async def establish(
        self,
        stream: trio.abc.HalfCloseableStream,
        *,
        initiator: bool,
        address: str,
        expected: str,
        path: Path,
    ) -> Link:
        """Make an admitted link of a byte stream, which is closed if that fails.

        Args:
            initiator: whether this end speaks first; it also counts as the one that dialled.
            expected: the PeerId that has to be at the other end.

        Raises:
            OverlayError: it is somebody else, or does not fit.
        """
        ...

    async def dial_shared(self, address: str) -> trio.SocketStream:
        """Connect to `/ip4|ip6/.../tcp/...` from the port that is listened on. Raises OSError."""
        ...

    async def connect(self, address: str) -> None:
        """Make a link with whoever is at `address`, a multiaddr that ends in its PeerId. Raises OverlayError."""
        ...

    def probe(self, address: str, peer_id: str, protocol: str) -> AbstractAsyncContextManager[Stream]:
        """Dial `address` from a port that nothing is known of, and open a stream there; hang up at exit.

        The session is not admitted and not kept. Raises OverlayError or OSError.
        """
        ...
