"""py-libp2p's own host as an overlay of ours, over loopback TCP: to meet its own GossipSub, and to be measured by it.

As little as that takes: no admission, no reconnecting; resets are closes.
"""

from __future__ import annotations

import warnings
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

from p2p.identity import NodeId
from p2p.identity.peer_id import node_id_of_peer
from p2p.overlay import PeerChange, PeerInfo, ProtocolRefused, StreamBroken

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from libp2p import new_host
    from libp2p.crypto.secp256k1 import create_new_key_pair
    from libp2p.network.stream.exceptions import StreamEOF, StreamError
    from libp2p.peer.peerinfo import info_from_p2p_addr
    from libp2p.pubsub.gossipsub import GossipSub
    from libp2p.pubsub.pubsub import Pubsub
    from libp2p.tools.anyio_service import background_trio_service
    from multiaddr import Multiaddr

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from p2p.identity import PrivateKey
    from p2p.overlay import StreamHandler

_LISTEN = "/ip4/127.0.0.1/tcp/0"


class StockStream:
    """A py-libp2p stream."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._broken = False

    @property
    def peer(self) -> NodeId:
        return node_id_of_peer(self._raw.muxed_conn.peer_id.to_base58())

    async def send_all(self, data: bytes) -> None:
        try:
            await self._raw.write(data)
        except Exception as error:
            raise StreamBroken(repr(error)) from error

    async def receive_some(self, max_bytes: int = 65536) -> bytes:
        if self._broken:
            raise StreamBroken("reset here")
        try:
            return bytes(await self._raw.read(max_bytes))
        except StreamEOF:
            return b""
        except StreamError as error:
            raise StreamBroken(repr(error)) from error

    async def send_eof(self) -> None:
        await self._raw.close()

    async def aclose(self) -> None:
        await self._raw.close()

    def reset(self) -> None:
        self._broken = True


class StockOverlay:
    """A py-libp2p host."""

    network = "devnet"

    def __init__(self, key: PrivateKey) -> None:
        self.node_id = key.node_id
        self.host = stock_host(key)
        self._peers: dict[NodeId, Any] = {}
        self._listeners: list[Callable[[PeerChange], None]] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with self.host.run(listen_addrs=[Multiaddr(_LISTEN)]):
            yield

    def listen_addresses(self) -> list[str]:
        return [str(address) for address in self.host.get_addrs()]

    def peers(self) -> list[PeerInfo]:
        return [PeerInfo(node_id, "", "out", 0) for node_id in self._peers]

    def guests(self) -> list[PeerInfo]:
        return []

    async def connect(self, address: str) -> NodeId:
        return self._met(await dial(self.host, address))

    async def disconnect(self, peer: str) -> None:
        await self.host.disconnect(self._peers[NodeId(peer)])

    async def open_stream(self, peer: str, protocol: str) -> StockStream:
        try:
            return StockStream(await self.host.new_stream(self._peers[NodeId(peer)], [protocol]))
        except Exception as error:
            raise ProtocolRefused(str(error)) from error

    def serve(self, protocol: str, handler: StreamHandler, *, guests: bool = False) -> None:
        async def serve(raw: Any) -> None:
            self._met(raw.muxed_conn.peer_id)
            await handler(StockStream(raw))

        self.host.set_stream_handler(protocol, serve)

    def subscribe_peers(
        self, listener: Callable[[PeerChange], None], *, guests: bool = False
    ) -> Callable[[], None]:
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def _met(self, peer_id: Any) -> NodeId:
        node_id = node_id_of_peer(peer_id.to_base58())
        if node_id not in self._peers:
            self._peers[node_id] = peer_id
            for listener in self._listeners:
                listener(PeerChange(node_id, True))
        return node_id


def stock_host(key: PrivateKey) -> Any:
    """Return a py-libp2p host with a key."""
    return new_host(key_pair=create_new_key_pair(key.secret))


async def dial(host: Any, address: str) -> Any:
    """Connect a py-libp2p host to an address; return the peer id."""
    info = info_from_p2p_addr(Multiaddr(address))
    await host.connect(info)
    return info.peer_id


@asynccontextmanager
async def stock_gossip(
    key: PrivateKey | None, topic: str, host: Any = None
) -> AsyncIterator[tuple[Any, Any, Any]]:
    """Run py-libp2p's host with its GossipSub; yield host, pubsub and a subscription to `topic`."""
    if host is None:
        assert key is not None
        host = stock_host(key)
    router = GossipSub(
        protocols=["/meshsub/1.2.0"], degree=6, degree_low=4, degree_high=12, heartbeat_interval=1
    )
    pubsub = Pubsub(host, router, strict_signing=True)
    async with (
        host.run(listen_addrs=[Multiaddr(_LISTEN)]),
        background_trio_service(pubsub),
        background_trio_service(router),
    ):
        await pubsub.wait_until_ready()
        yield host, pubsub, await pubsub.subscribe(topic)
        await trio.lowlevel.checkpoint()
