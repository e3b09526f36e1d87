"""py-libp2p for the session benchmark: a host that serves, and hosts that call. Noise and yamux only."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


def _host() -> Any:
    from libp2p import new_host
    from libp2p.crypto.secp256k1 import create_new_key_pair
    from libp2p.crypto.x25519 import create_new_key_pair as create_x25519
    from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
    from libp2p.security.noise.transport import Transport
    from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
    from libp2p.stream_muxer.yamux.yamux import Yamux

    logging.getLogger("libp2p").setLevel(logging.CRITICAL)
    pair = create_new_key_pair()
    noise = Transport(pair, noise_privkey=create_x25519().private_key)
    return new_host(key_pair=pair, sec_opt={NOISE: noise}, muxer_opt={YAMUX: Yamux})


class StockLine:
    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.send = stream.write
        self.close = stream.close
        self._finished = False

    async def receive(self, max_bytes: int) -> bytes:
        from libp2p.network.stream.exceptions import StreamEOF

        try:
            data: bytes = await self._stream.read(max_bytes)
        except StreamEOF:
            return b""
        return data

    async def finish(self) -> None:
        await self._stream.close_write()


class Stock:
    name = "py-libp2p"

    async def serve(self, handlers: dict[str, Any], ready: Callable[[Any], None]) -> None:
        from multiaddr import Multiaddr

        host = _host()
        for protocol, handler in handlers.items():
            host.set_stream_handler(protocol, _guarded(handler))
        async with host.run(listen_addrs=[Multiaddr("/ip4/127.0.0.1/tcp/0")]):
            ready(str(host.get_addrs()[0]))
            await trio.sleep_forever()

    @asynccontextmanager
    async def calling(self, address: str) -> AsyncIterator[StockCaller]:
        yield StockCaller(address)


def _guarded(handler: Any) -> Any:
    async def handle(stream: Any) -> None:
        try:
            await handler(StockLine(stream))
        except Exception:
            await stream.reset()

    return handle


class StockCaller:
    """Each connection is a host of its own, since a host has one with each peer."""

    def __init__(self, address: str) -> None:
        self._address = address

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Any]:
        from libp2p.peer.peerinfo import info_from_p2p_addr
        from multiaddr import Multiaddr

        info = info_from_p2p_addr(Multiaddr(self._address))
        host = _host()
        async with host.run(listen_addrs=[]):
            await host.connect(info)
            yield host, info.peer_id

    async def open(self, connection: Any, protocol: str) -> StockLine:
        host, peer = connection
        return StockLine(await host.new_stream(peer, [protocol]))
