"""`OurNode`: a whole node of ours on the network, as foreign peers meet it: overlay, gossip, Kademlia and bus."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import structlog

from p2p.broadcast.driver import GossipBroadcast
from p2p.bus.peer import PeerBus
from p2p.bus.router import LocalBus
from p2p.clock import SystemClock
from p2p.discovery.kademlia import Kademlia
from p2p.discovery.records import RecordRules
from p2p.entropy import SystemEntropy
from p2p.identity import PrivateKey
from p2p.identity.peer_id import node_id_of_peer, peer_id_bytes
from p2p.testing.conformance import eventually
from tests.interop.matrix import ECHO
from tests.interop.ours import echo
from tests.p2p.broadcast.world import Store
from tests.p2p.host.nodes import make

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from p2p.bus import Call
    from p2p.host.overlay import LibP2POverlay
    from tests.interop.foreign import ForeignPeer

NETWORK = "devnet"
PATIENCE = 30.0


class Service:
    """Says back what it is told, and who it was that said it."""

    def __init__(self) -> None:
        self.callers: list[str] = []

    async def call(self, call: Call) -> bytes:
        self.callers.append(call.caller.node_id)
        return b"we say " + call.body

    def stream(self, call: Call) -> AsyncIterator[bytes]:
        raise NotImplementedError


class OurNode:
    """What a test needs of it."""

    def __init__(self, key: PrivateKey) -> None:
        clock, entropy = SystemClock(), SystemEntropy()
        self.key = key
        self.overlay: LibP2POverlay = make(NETWORK, key)
        self.topic = Store()
        log = structlog.wrap_logger(structlog.ReturnLogger(), processors=[lambda *_: ""])
        self.gossip = GossipBroadcast(self.overlay, key, clock, entropy, log)
        self.rules = RecordRules(NETWORK, lambda _: True)
        self.kademlia = Kademlia(
            self.overlay,
            peer_id_bytes(key.public_key),
            self.rules,
            addresses_of=self.overlay.discovery.policy.addresses_of,
            acceptable=lambda _: True,
            clock=clock,
            entropy=entropy,
            diverse=False,
            spare=lambda _: False,
        )
        self.bus = LocalBus(key.node_id)
        self.service = Service()

    @property
    def address(self) -> str:
        return self.overlay.listen_addresses()[0]

    @property
    def peer_id(self) -> str:
        return self.address.rpartition("/")[2]

    async def meet(self, far: ForeignPeer, *, we_dial: bool, node: bool = False) -> str:
        """Connect with a foreign peer; return its name here: a PeerId, or a NodeId where it says hello."""
        name = node_id_of_peer(far.peer_id) if node else far.peer_id
        if we_dial:
            assert await self.overlay.connect(far.address) == name
            await far.has_met(self.peer_id)
        else:
            assert await far.do("dial", address=self.address) == self.peer_id
            if node:
                assert (await far.do("hello", peer=self.peer_id))["network"] == NETWORK
        met = self.overlay.peers if node else self.overlay.guests
        await eventually(lambda: [info.node_id for info in met()] == [name], PATIENCE)
        return name

    def record_of(self, key: PrivateKey, place: str) -> tuple[bytes, bytes]:
        """Return a key of the directory and a good record to put there."""
        value = self.rules.sign(key, SystemClock().utc_ns(), [place])
        assert value is not None
        return self.rules.key(key.node_id), value


@asynccontextmanager
async def our_node() -> AsyncIterator[OurNode]:
    node = OurNode(PrivateKey.generate(SystemEntropy()))
    node.overlay.serve(ECHO, echo, guests=True)
    node.bus.register("/public/interop", node.service)
    async with (
        node.overlay.running(),
        node.kademlia.running(),
        node.gossip.running(),
        PeerBus(node.overlay, node.bus).running(),
    ):
        await node.gossip.join(node.topic)
        yield node
