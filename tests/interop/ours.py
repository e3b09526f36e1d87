"""`SessionPeer`: our sessions alone as a libp2p peer, with ping, identify and echo on them and no host."""

from __future__ import annotations

import hashlib
import math
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from p2p.entropy import SeededEntropy
from p2p.multiaddr import parse
from p2p.overlay import OverlayError
from p2p.protobuf import LENGTH, FrameReader, encode_bytes, frame, read_fields
from p2p.session import (
    Ed25519Identity,
    MemoryBudget,
    MuxedStream,
    NoiseIdentity,
    Secp256k1Identity,
    Session,
    upgrade,
)
from tests.interop.matrix import ECHO, IDENTIFY, PING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from p2p.overlay import Stream
    from tests.interop.matrix import KeyKind

_PUBLIC_KEY, _ADDRESS, _PROTOCOL, _AGENT = (number << 3 | LENGTH for number in (1, 2, 3, 6))


class SessionPeer:
    """Listens on loopback, dials, and serves the three protocols to whoever comes."""

    def __init__(self, key: KeyKind, nursery: trio.Nursery, listener: trio.SocketListener) -> None:
        identity = Secp256k1Identity if key == "secp256k1" else Ed25519Identity
        self._entropy = SeededEntropy(1, "interop")
        self._identity = NoiseIdentity(identity(bytes([9]) * 32), self._entropy)
        self._nursery = nursery
        self._budget = MemoryBudget()
        self._sessions: dict[str, Session] = {}
        self._news = trio.Event()
        self._served = {PING: echo, IDENTIFY: self._identify, ECHO: echo}
        port = listener.socket.getsockname()[1]
        self.peer_id = self._identity.public.peer_id
        self._place = f"/ip4/127.0.0.1/tcp/{port}"
        self.address = f"{self._place}/p2p/{self.peer_id}"

    async def dial(self, address: str) -> str:
        """Make a session with whom `address` names; return who that is."""
        parts = {part.name: part.value for part in parse(address).parts}
        stream = await trio.open_tcp_stream(parts["ip4"], int(parts["tcp"]))
        session = await self._meet(stream, initiator=True, expected=parts["p2p"])
        self._nursery.start_soon(session.run, self._accepted)
        return session.peer_id

    async def accept(self, stream: trio.SocketStream) -> None:
        session = await self._meet(stream, initiator=False, expected=None)
        await session.run(self._accepted)

    async def open_stream(self, peer: str, protocol: str, *, lazy: bool | None = None) -> MuxedStream:
        return await self._sessions[peer].open_stream(protocol, lazy=lazy)

    async def has_met(self, peer: str) -> None:
        """Wait until there is a session with `peer`, who may have finished its half of it earlier."""
        while peer not in self._sessions:
            await self._news.wait()

    async def _meet(self, stream: trio.SocketStream, *, initiator: bool, expected: str | None) -> Session:
        session = await upgrade(
            stream,
            self._identity,
            initiator=initiator,
            entropy=self._entropy,
            budget=self._budget,
            expected=expected,
        )
        self._sessions[session.peer_id] = session
        self._news.set()
        self._news = trio.Event()
        return session

    def _accepted(self, stream: MuxedStream) -> None:
        self._nursery.start_soon(self._serve, stream)

    async def _serve(self, stream: MuxedStream) -> None:
        try:
            await self._served[await stream.respond(self._served)](stream)
        except OverlayError:  # what js tries that is not served: it says so and goes on
            stream.reset()

    async def _identify(self, stream: Stream) -> None:
        message = encode_bytes(_PUBLIC_KEY, self._identity.public.encode())
        message += encode_bytes(_ADDRESS, parse(self._place).encode())
        for protocol in self._served:
            message += encode_bytes(_PROTOCOL, protocol.encode())
        await stream.send_all(frame(message + encode_bytes(_AGENT, b"interop")))
        await stream.aclose()


@asynccontextmanager
async def session_peer(key: KeyKind) -> AsyncIterator[SessionPeer]:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        peer = SessionPeer(key, nursery, listeners[0])
        nursery.start_soon(trio.serve_listeners, peer.accept, listeners)
        yield peer
        nursery.cancel_scope.cancel()


async def echo(stream: Stream) -> None:
    while data := await stream.receive_some(262_144):
        await stream.send_all(data)
    await stream.aclose()


async def ping(stream: Stream) -> None:
    """Ping twice over one stream."""
    for token in (bytes(32), bytes(range(32))):
        await stream.send_all(token)
        assert await _exactly(stream, 32) == token
    await stream.aclose()


async def identify(stream: Stream) -> dict[str, list[bytes]]:
    """Return the fields of what the peer says of itself: `key`, `protocols`, `agent`."""
    reader = FrameReader(65_536)
    found: dict[str, list[bytes]] = {"key": [], "protocols": [], "agent": []}
    names = {_PUBLIC_KEY: "key", _PROTOCOL: "protocols", _AGENT: "agent"}
    messages = 0
    while data := await stream.receive_some():
        for message in reader.feed(data):
            messages += 1
            for tag, _, value in read_fields(message):
                if tag in names:
                    found[names[tag]].append(value)
    assert messages
    await stream.aclose()
    return found


def pattern(size: int) -> bytes:
    """Return what every peer sends to be echoed: byte i is 31 i + (i >> 8), of which the last eight bits count."""
    block = 1 << 16
    whole = bytes((at * 31 + (at >> 8)) & 0xFF for at in range(block))
    return (whole * math.ceil(size / block))[:size]


def pattern_hash(size: int) -> str:
    return hashlib.sha256(pattern(size)).hexdigest()


async def call_echo(stream: Stream, size: int) -> None:
    """Send `size` bytes while reading them back; what comes has to be what was sent."""
    sent = pattern(size)
    heard = hashlib.sha256()

    async def send() -> None:
        for at in range(0, size, 262_144):
            await stream.send_all(sent[at : at + 262_144])
        await stream.send_eof()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        while data := await stream.receive_some(262_144):
            heard.update(data)
    assert heard.hexdigest() == pattern_hash(size)
    await stream.aclose()


async def _exactly(stream: Stream, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = await stream.receive_some(count - len(data))
        assert piece, "the stream ended early"
        data += piece
    return data
