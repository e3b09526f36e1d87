"""Networks of nodes with Kademlia and a directory, in memory, on virtual time.

Each node has a key and an address of the public internet, in a subnet of its own unless told otherwise. Hello is
left out, since it costs more than all the rest: what it tells (where a peer listens) is read off the overlay.
"""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from p2p.discovery.directory import Directory
from p2p.discovery.kademlia import Kademlia, KademliaParams
from p2p.discovery.records import RecordRules
from p2p.entropy import SeededEntropy
from p2p.identity import NodeId, PrivateKey
from p2p.identity.peer_id import peer_id_bytes
from p2p.testing.clock import VirtualClock
from p2p.testing.network import Link
from p2p.testing.overlay import MemoryNetwork, MemoryOverlay

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

LINGER = 60.0


def place(index: int) -> str:
    """Return the address of node number `index`: each in a /24 of its own."""
    return f"/ip4/{20 + index // 250}.{index % 250}.7.1/tcp/4001"


@dataclass(eq=False)
class Node:
    """A node and its parts."""

    key: PrivateKey
    overlay: MemoryOverlay
    kademlia: Kademlia
    directory: Directory
    stop: trio.CancelScope
    stopped: trio.Event
    learned: dict[NodeId, Sequence[str]]

    @property
    def node_id(self) -> NodeId:
        return self.key.node_id

    @property
    def peer_id(self) -> bytes:
        return peer_id_bytes(self.key.public_key)


class Swarm:
    """The nodes of one network."""

    def __init__(self, seed: int = 1, params: KademliaParams | None = None, *, latency: float = 0.03) -> None:
        self.seed = seed
        self.params = params or KademliaParams()
        self.network = MemoryNetwork(
            VirtualClock(), SeededEntropy(seed, "network"), Link(latency=latency), directory=False
        )
        self.rules = RecordRules("devnet", lambda address: address.startswith("/ip4/"))
        self.nodes: list[Node] = []
        self.nursery: trio.Nursery | None = None
        self.chance = SeededEntropy(seed, "swarm").jitter

    def make(self, index: int, *, address: str | None = None, serves: bool = True) -> Node:
        """Make a node that does not run yet."""
        entropy = SeededEntropy(self.seed, f"node/{index}")
        key = PrivateKey.generate(entropy)
        overlay = self.network.overlay(key, address=address or place(index))
        learned: dict[NodeId, Sequence[str]] = {}
        kademlia = Kademlia(
            overlay,
            peer_id_bytes(key.public_key),
            self.rules,
            addresses_of=self.told,
            acceptable=lambda address: address.startswith("/ip4/"),
            clock=self.network.clock,
            entropy=entropy,
            params=self.params,
            serves=serves,
            linger=LINGER,
        )
        directory = Directory(
            key,
            kademlia,
            self.rules,
            listen=overlay.listen_addresses,
            addresses_of=lambda node: learned.get(node, ()),
            learn=learned.__setitem__,
            clock=self.network.clock,
            entropy=entropy,
            serve=serves,
        )
        overlay.find_addresses = directory.look_up
        return Node(key, overlay, kademlia, directory, trio.CancelScope(), trio.Event(), learned)

    def told(self, node: NodeId) -> Sequence[str]:
        """Return what a connected peer has said of itself at hello."""
        overlay = self.network.running.get(node)
        return () if overlay is None else overlay.listen_addresses()

    async def start(self, node: Node, contacts: Sequence[Node] = ()) -> None:
        """Run a node and connect it with those that it knows."""
        assert self.nursery is not None
        await self.nursery.start(self._run, node)
        self.nodes.append(node)
        for contact in contacts:
            await node.overlay.connect(contact.overlay.place)

    async def _run(self, node: Node, task_status: trio.TaskStatus[None]) -> None:
        with node.stop:
            async with node.overlay.running(), node.directory.running():
                task_status.started()
                await trio.sleep_forever()
        node.stopped.set()

    async def leave(self, node: Node) -> None:
        """Stop a node, at once."""
        node.stop.cancel()
        self.nodes.remove(node)
        await node.stopped.wait()


@asynccontextmanager
async def swarm(
    count: int, *, seed: int = 1, params: KademliaParams | None = None, contacts: int = 2
) -> AsyncIterator[Swarm]:
    """Run `count` nodes, each of which knew a few that came before it."""
    world = Swarm(seed, params)
    async with AsyncExitStack() as stack:
        world.nursery = await stack.enter_async_context(trio.open_nursery())
        stack.callback(world.nursery.cancel_scope.cancel)
        for index in range(count):
            known = world.chance.sample(world.nodes, min(contacts, len(world.nodes)))
            await world.start(world.make(index), known)
        yield world
