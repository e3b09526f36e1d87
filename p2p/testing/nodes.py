"""Whole `NodeContext`s in memory, on virtual time: what a protocol handler's tests stand on.

    async with memory_nodes(2, seed=1) as (a, b):
        async with MyProtocol().running(a), MyProtocol().running(b):
            ...

`memory_node` is one of them, on a network that the caller holds: to break links, or to let nodes come and go.
The bus, the broadcast, the overlay's interface, signatures and SQLite are the real ones; network, clock and
randomness are models, seeded, so the same seed gives the same run. Use it under a trio `MockClock` with
autojump, or with `p2p.testing.determinism` for byte-identical traces.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import structlog

from p2p.broadcast.driver import GossipBroadcast
from p2p.bus.peer import PeerBus
from p2p.bus.router import LocalBus
from p2p.entropy import SeededEntropy
from p2p.identity import PrivateKey, recover
from p2p.protocol import NodeContext
from p2p.storage import InlineDatabase
from p2p.testing.clock import VirtualClock
from p2p.testing.network import Link
from p2p.testing.overlay import MemoryNetwork

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from p2p.testing.determinism import Auditor

DEFAULT_LINK = Link(latency=0.02)


@contextlib.asynccontextmanager
async def memory_nodes(
    count: int,
    *,
    seed: int,
    link: Link = DEFAULT_LINK,
    auditor: Auditor | None = None,
    settings: Mapping[str, object] | None = None,
) -> AsyncIterator[list[NodeContext]]:
    """Run `count` nodes that are connected with each other; yields their contexts.

    Args:
        seed: of keys, network and everything else that is drawn.
        link: what lies between any two of them.
        auditor: gets a line for each session, stream and dial.
        settings: given to every handler as its own.
    """
    network = MemoryNetwork(VirtualClock(), SeededEntropy(seed, "network"), link, auditor=auditor)
    async with contextlib.AsyncExitStack() as stack:
        nodes = [
            await stack.enter_async_context(memory_node(network, index, seed=seed, settings=settings))
            for index in range(count)
        ]
        for index, node in enumerate(nodes):
            for other in nodes[index + 1 :]:
                await node.overlay.connect(other.overlay.listen_addresses()[0])
        yield nodes


@contextlib.asynccontextmanager
async def memory_node(
    network: MemoryNetwork, index: int, *, seed: int, settings: Mapping[str, object] | None = None
) -> AsyncIterator[NodeContext]:
    """Run node number `index` of a network, connected with nobody yet; yields its context.

    Its key and all that it draws follow from `seed` and `index`. Its database is gone with it.

    Args:
        settings: given to every handler as its own.
    """
    entropy = SeededEntropy(seed, f"node/{index}")
    key = PrivateKey.generate(entropy)
    overlay = network.overlay(key)
    bus = LocalBus(key.node_id)
    log = structlog.get_logger("test").bind(node=index)
    broadcast = GossipBroadcast(overlay, key, network.clock, entropy, log)
    database = InlineDatabase()
    try:
        async with overlay.running(), PeerBus(overlay, bus).running(), broadcast.running():
            yield NodeContext(
                overlay=overlay,
                bus=bus,
                broadcast=broadcast,
                database=database,
                clock=network.clock,
                entropy=entropy,
                signer=key,
                verifier=recover,
                settings=settings or {},
                log=log,
            )
    finally:
        database.close()
