"""The other end of a session by py-libp2p 0.8.1: its Noise, its multistream-select and its yamux, as they come."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio
from libp2p.crypto.ed25519 import create_new_key_pair as new_ed25519
from libp2p.crypto.secp256k1 import create_new_key_pair as new_secp256k1
from libp2p.crypto.x25519 import X25519PrivateKey
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.protocol_muxer.multiselect import Multiselect
from libp2p.protocol_muxer.multiselect_client import MultiselectClient
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.stream_muxer.yamux.yamux import Yamux
from libp2p.transport.upgrader import TransportUpgrader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ECHO = "/echo/1"


class StockPeer:
    """One end, with an identity of either kind."""

    def __init__(self, kind: str = "secp256k1", seed: int = 7) -> None:
        make = new_ed25519 if kind == "ed25519" else new_secp256k1
        self.pair = make(bytes([seed]) * 32)
        self.id = ID.from_pubkey(self.pair.public_key)
        noise = NoiseTransport(self.pair, noise_privkey=X25519PrivateKey.from_bytes(bytes([seed + 1]) * 32))
        self.upgrader = TransportUpgrader({NOISE: noise}, {YAMUX: Yamux}, negotiate_timeout=10)

    @asynccontextmanager
    async def connected(
        self, stream: trio.SocketStream, *, initiator: bool, expected: str | None = None
    ) -> AsyncIterator[Yamux]:
        """Upgrade `stream` and run yamux on it."""
        raw = RawConnection(TrioTCPStream(stream), initiator)
        security = self.upgrader.security_multistream
        if initiator:
            secured = await security.secure_outbound(raw, ID.from_string(expected) if expected else None)
        else:
            secured = await security.secure_inbound(raw)
        muxers = self.upgrader.muxer_multistream
        _, make = await muxers._selector.select(secured, initiator, 10)
        muxed = make(secured, secured.get_remote_peer(), is_initiator=initiator)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(muxed.start)
            await muxed.event_started.wait()
            try:
                yield muxed
            finally:
                with trio.CancelScope(shield=True), trio.move_on_after(1):
                    await muxed.close()
                nursery.cancel_scope.cancel()


async def propose(stream: Any, protocol: str) -> None:
    await MultiselectClient().select_one_of([protocol], MultiselectCommunicator(stream))


async def respond(stream: Any, *protocols: str) -> str:
    chosen, _ = await Multiselect(dict.fromkeys(protocols)).negotiate(MultiselectCommunicator(stream))
    return str(chosen)


async def read_all(stream: Any) -> bytes:
    """Read until the other end has finished."""
    from libp2p.stream_muxer.exceptions import MuxedStreamEOF

    data = bytearray()
    while True:
        try:
            piece = await stream.read(65536)
        except MuxedStreamEOF:
            return bytes(data)
        if not piece:
            return bytes(data)
        data += piece
