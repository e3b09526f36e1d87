"""The same handler between two nodes over libp2p on loopback: real sockets, Noise, yamux, SQLite."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import golem_hello
import structlog

from p2p import host
from p2p.broadcast.driver import GossipBroadcast
from p2p.bus.peer import PeerBus
from p2p.bus.router import LocalBus
from p2p.clock import SystemClock
from p2p.entropy import SystemEntropy
from p2p.identity import PrivateKey, recover
from p2p.protocol import NodeContext
from p2p.storage import open_database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@contextlib.asynccontextmanager
async def node(folder: Path) -> AsyncIterator[NodeContext]:
    """A node with nothing but the overlay, the bus and the handler's needs."""
    clock, entropy, log = SystemClock(), SystemEntropy(), structlog.get_logger("test")
    key = PrivateKey.generate(entropy)
    overlay = host.LibP2POverlay(key, "devnet", clock=clock, entropy=entropy)
    bus = LocalBus(key.node_id)
    peers = PeerBus(overlay, bus).running()
    async with overlay.running(), peers, open_database(folder / "node.sqlite3") as database:
        yield NodeContext(
            overlay=overlay,
            bus=bus,
            broadcast=GossipBroadcast(overlay, key, clock, entropy, log),
            database=database,
            clock=clock,
            entropy=entropy,
            signer=key,
            verifier=recover,
            settings={},
            log=log,
        )


async def test_greets_over_libp2p(tmp_path: Path) -> None:
    await host.prepare()
    async with node(tmp_path / "a") as a, node(tmp_path / "b") as b, golem_hello.create({}).running(b):
        await a.overlay.connect(b.overlay.listen_addresses()[0])
        greeting = await golem_hello.greet(a.bus, b.node_id, "Ada")
    assert (greeting.text, greeting.count) == ("Hello, Ada!", 1)
