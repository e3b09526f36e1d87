"""`DeferredOverlay`: an overlay that will come, so that a node can start serving before libp2p is loaded.

Until `attach` it has no peers; what is served and subscribed meanwhile is carried over. Until `joined` it reaches
nobody: calls wait a while for that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from p2p.overlay import PeerUnreachable, is_guest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from p2p.identity import NodeId
    from p2p.overlay import Overlay, PeerChange, PeerInfo, Stream, StreamHandler

JOIN_TIMEOUT = 30.0
"""Seconds that a stream waits for the overlay while the node starts."""


class DeferredOverlay:
    """Stands for an overlay until there is one; an `Overlay` itself."""

    def __init__(self, node_id: NodeId, network: str) -> None:
        self._node_id = node_id
        self._network = network
        self._served: dict[str, tuple[StreamHandler, bool]] = {}
        self._listeners: list[tuple[Callable[[PeerChange], None], bool]] = []
        self._overlay: Overlay | None = None
        self._joined = trio.Event()

    def attach(self, overlay: Overlay) -> None:
        """Hand everything to `overlay`, which must not be running yet, or it would miss peers."""
        self._overlay = overlay
        for protocol, (handler, guests) in self._served.items():
            overlay.serve(protocol, handler, guests=guests)
        overlay.subscribe_peers(self._tell, guests=True)

    def set_joined(self) -> None:
        """Say that the attached overlay is running; calls that waited for it go on."""
        self._joined.set()

    @property
    def joined(self) -> bool:
        """Whether the overlay is there and running."""
        return self._joined.is_set()

    @property
    def node_id(self) -> NodeId:
        return self._node_id

    @property
    def network(self) -> str:
        return self._network

    def listen_addresses(self) -> Sequence[str]:
        return self._overlay.listen_addresses() if self._overlay else ()

    def peers(self) -> Sequence[PeerInfo]:
        return self._overlay.peers() if self._overlay else ()

    def guests(self) -> Sequence[PeerInfo]:
        return self._overlay.guests() if self._overlay else ()

    def aliases_of(self, peer: NodeId) -> frozenset[NodeId]:
        return self._overlay.aliases_of(peer) if self._overlay else frozenset()

    async def connect(self, address: str) -> NodeId:
        return await (await self._wait()).connect(address)

    async def disconnect(self, peer: str) -> None:
        if self._overlay is not None:
            await self._overlay.disconnect(peer)

    async def open_stream(self, peer: str, protocol: str) -> Stream:
        return await (await self._wait()).open_stream(peer, protocol)

    def serve(self, protocol: str, handler: StreamHandler, *, guests: bool = False) -> None:
        self._served[protocol] = handler, guests
        if self._overlay is not None:
            self._overlay.serve(protocol, handler, guests=guests)

    def subscribe_peers(
        self, listener: Callable[[PeerChange], None], *, guests: bool = False
    ) -> Callable[[], None]:
        subscription = listener, guests
        self._listeners.append(subscription)

        def stop() -> None:
            if subscription in self._listeners:
                self._listeners.remove(subscription)

        return stop

    def _tell(self, change: PeerChange) -> None:
        for listener, guests in list(self._listeners):
            if guests or not is_guest(change.node_id):
                listener(change)

    async def _wait(self) -> Overlay:
        with trio.move_on_after(JOIN_TIMEOUT):
            await self._joined.wait()
        if self._overlay is None or not self.joined:
            raise PeerUnreachable("this node has not joined the network yet")
        return self._overlay
