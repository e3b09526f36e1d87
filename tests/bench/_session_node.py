"""Nodes for the session benchmark: `LibP2POverlay` serves; who calls is a session that has said hello, as a node does.

Each connection is from a node of its own, and so is proven, admitted and entered in the books like any other.
"""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import structlog
import trio

from p2p.clock import SystemClock
from p2p.discovery.exchange import greet
from p2p.discovery.messages import OLDEST_VERSION, PROTOCOL_VERSION, Hello
from p2p.entropy import SystemEntropy
from p2p.host import prepare
from p2p.identity import PrivateKey
from p2p.multiaddr import parse
from p2p.overlay import protocol_id
from p2p.session import MemoryBudget, MuxedStream, NoiseIdentity, Secp256k1Identity, Session, upgrade
from tests.bench._session_ours import OurLine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

NETWORK = "devnet"
HELLO = Hello(network=NETWORK, agent="bench", version=PROTOCOL_VERSION, oldest=OLDEST_VERSION)
HELLO_ID = protocol_id(NETWORK, "hello", 1)


class Node:
    name = "golem-p2p"

    async def serve(self, handlers: dict[str, Any], ready: Callable[[Any], None]) -> None:
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
        await prepare()
        from p2p.host import LibP2POverlay

        entropy = SystemEntropy()
        key = PrivateKey(entropy.token_bytes(32))
        overlay = LibP2POverlay(key, NETWORK, clock=SystemClock(), entropy=entropy)
        for protocol, handler in handlers.items():
            overlay.serve(protocol, _served(handler))
        async with overlay.running():
            ready(overlay.listen_addresses()[0])
            await trio.sleep_forever()

    @asynccontextmanager
    async def calling(self, address: str) -> AsyncIterator[NodeCaller]:
        async with trio.open_nursery() as nursery:
            yield NodeCaller(address, nursery)
            nursery.cancel_scope.cancel()


def _served(handler: Any) -> Any:
    async def serve(stream: Any) -> None:
        await handler(OurLine(stream))

    return serve


class NodeCaller:
    def __init__(self, address: str, nursery: trio.Nursery) -> None:
        place = {part.name: part.value for part in parse(address).parts}
        self._port = int(place["tcp"])
        self._nursery = nursery
        self._entropy = SystemEntropy()
        self._budget = MemoryBudget()

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Session]:
        identity = NoiseIdentity(Secp256k1Identity(self._entropy.token_bytes(32)), self._entropy)
        stream = await trio.open_tcp_stream("127.0.0.1", self._port)
        session = await upgrade(stream, identity, initiator=True, entropy=self._entropy, budget=self._budget)
        self._nursery.start_soon(session.run, MuxedStream.reset)
        try:
            hello = await session.open_stream(HELLO_ID, lazy=True)
            await greet(hello, HELLO)
            await hello.aclose()
            yield session
        finally:
            await session.aclose()

    async def open(self, connection: Session, protocol: str) -> OurLine:
        return OurLine(await connection.open_stream(protocol))
