"""Overlays on libp2p over real sockets, and what tests ask of them."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

from p2p.clock import SystemClock
from p2p.discovery import DiscoverySettings
from p2p.entropy import SystemEntropy
from p2p.host.overlay import LibP2POverlay
from p2p.host.tcp import ends
from p2p.identity import PrivateKey
from p2p.testing.conformance import ask, echo, serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from p2p.overlay import Overlay

QUICK = DiscoverySettings(first_retry=0.05, bootstrap_retry=0.5)
PASSIVE = DiscoverySettings(target_peers=0)
"""Dials nobody by itself, so that a test decides who is connected."""


def make(network: str = "devnet", key: PrivateKey | None = None, **options: Any) -> LibP2POverlay:
    entropy = SystemEntropy()
    options.setdefault("settings", PASSIVE)
    return LibP2POverlay(
        key or PrivateKey.generate(entropy), network, clock=SystemClock(), entropy=entropy, **options
    )


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[LibP2POverlay, LibP2POverlay]]:
    a, b = make(), make()
    async with a.running(), b.running():
        yield a, b


def ids(overlay: Overlay) -> set[str]:
    return {peer.node_id for peer in overlay.peers()}


def place_of(overlay: Overlay) -> tuple[str, int]:
    parts = overlay.listen_addresses()[0].split("/")
    return parts[2], int(parts[4])


def session_of(overlay: LibP2POverlay, other: Overlay) -> Any:
    return overlay._sessions.newest(other.node_id)


async def further_session(overlay: LibP2POverlay, other: LibP2POverlay) -> None:
    """Make a direct session beside those that there are, as after a hole punch."""
    await direct(overlay, await trio.open_tcp_stream(*place_of(other)), other, initiator=True)


async def direct(
    overlay: LibP2POverlay, stream: trio.SocketStream, other: LibP2POverlay, *, initiator: bool
) -> None:
    """Make a direct session with `other` of a TCP stream."""
    await overlay.reach_host.establish(
        stream,
        initiator=initiator,
        address=str(ends(stream)[1]),
        expected=other.reach_host.peer_id,
        path="direct",
    )


async def relayed(
    overlay: LibP2POverlay,
    stream: trio.abc.HalfCloseableStream,
    expected: str,
    *,
    initiator: bool,
    relay: str = "relay",
) -> str:
    """Make a session of a stream as if it came through a relay; return who is there."""
    link = await overlay.reach_host.establish(
        stream, initiator=initiator, address=relay, expected=expected, path="relayed"
    )
    return link.peer


async def works(a: Overlay, b: Overlay) -> None:
    protocol = serve(b, "works", echo)
    assert await ask(await a.open_stream(b.node_id, protocol), b"works" * 1000) == b"works" * 1000
