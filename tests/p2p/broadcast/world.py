"""Nodes with a broadcast and a topic on an overlay in memory, on virtual time; and peers made by hand."""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Self

import structlog
import trio

from p2p.broadcast import Verdict, wire
from p2p.broadcast.driver import GossipBroadcast
from p2p.broadcast.params import GossipParams
from p2p.entropy import SeededEntropy
from p2p.identity import NodeId, PrivateKey
from p2p.protobuf import FrameReader
from p2p.testing.clock import VirtualClock
from p2p.testing.network import Link
from p2p.testing.overlay import MemoryNetwork, MemoryOverlay

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from p2p.overlay import Stream
    from p2p.testing.determinism import Auditor

NAME = "offers/1"
WIRE_NAME = "/golem-p2p/devnet/offers/1"


def record(key: str, seq: int = 1, size: int = 0) -> bytes:
    """Return a record as `Store` understands it."""
    return f"{key}|{seq}|".encode().ljust(size, b".")


class Store:
    """A topic's owner: keeps `key|seq|...`, rejects what begins with `bad`."""

    def __init__(self, name: str = NAME) -> None:
        self._name = name
        self.kept: dict[str, tuple[int, bytes]] = {}
        self.asked: list[bytes] = []
        self.sources: list[NodeId] = []

    @property
    def name(self) -> str:
        return self._name

    async def receive(self, data: bytes, source: NodeId) -> Verdict:
        await trio.lowlevel.checkpoint()
        self.asked.append(data)
        self.sources.append(source)
        return self.keep(data)

    def keep(self, data: bytes) -> Verdict:
        if data.startswith(b"bad"):
            return Verdict.REJECT
        key, seq, _ = data.decode().split("|", 2)
        if self.kept.get(key, (-1, b""))[0] >= int(seq):
            return Verdict.IGNORE
        self.kept[key] = (int(seq), data)
        return Verdict.ACCEPT

    def held(self) -> dict[str, int]:
        return {key: seq for key, (seq, _) in self.kept.items()}

    def record(self, key: str) -> bytes | None:
        return self.kept[key][1] if key in self.kept else None


class Node:
    """A node of the world."""

    def __init__(self, world: World, number: int, params: GossipParams) -> None:
        key = PrivateKey((number + 1).to_bytes(32, "big"))
        self.node_id = key.node_id
        self.overlay = world.network.overlay(key)
        entropy = SeededEntropy(world.seed, f"node/{number}")
        self.broadcast = GossipBroadcast(self.overlay, key, world.clock, entropy, world.log, params)
        self.store = Store()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with self.overlay.running(), self.broadcast.running():
            await self.broadcast.join(self.store)
            yield

    async def publish(self, data: bytes) -> None:
        assert self.store.keep(data) is Verdict.ACCEPT
        await self.broadcast.publish(NAME, data)

    def count(self, name: str) -> int:
        return self.broadcast.counters().get(name, 0)


class World:
    """A network and its nodes. Entered, it runs; nodes stop when it is left."""

    def __init__(
        self,
        count: int = 0,
        seed: int = 1,
        params: GossipParams = GossipParams(),  # noqa: B008 - frozen
        auditor: Auditor | None = None,
    ) -> None:
        self.seed = seed
        self.errors: list[str] = []
        """What nodes logged as errors."""
        self.log = structlog.wrap_logger(structlog.ReturnLogger(), processors=[self._note])
        self.clock = VirtualClock()
        self.network = MemoryNetwork(
            self.clock, SeededEntropy(seed, "network"), Link(latency=0.02), auditor=auditor
        )
        self.nodes = [Node(self, number, params) for number in range(count)]
        self._params = params
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        for node in self.nodes:
            await self._stack.enter_async_context(node.running())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()
        assert self.errors == []

    def _note(self, _logger: object, method: str, event: dict[str, Any]) -> str:
        if method == "error":
            self.errors.append(repr(sys.exc_info()[1]))
        return ""

    async def add(self) -> Node:
        node = Node(self, len(self.nodes), self._params)
        self.nodes.append(node)
        await self._stack.enter_async_context(node.running())
        return node

    async def add_by_hand(self, number: int = 900) -> HandPeer:
        overlay = self.network.overlay(PrivateKey(number.to_bytes(32, "big")))
        await self._stack.enter_async_context(overlay.running())
        return HandPeer(overlay)

    async def connect(self, a: int, b: int) -> None:
        await self.nodes[a].overlay.connect(self.nodes[b].overlay.listen_addresses()[0])

    async def connect_ring(self) -> None:
        for number in range(len(self.nodes)):
            await self.connect(number, (number + 1) % len(self.nodes))

    async def connect_all(self) -> None:
        for a in range(len(self.nodes)):
            for b in range(a):
                await self.connect(a, b)


async def until(condition: Callable[[], bool], within: float) -> None:
    """Let (virtual) time pass until `condition` holds."""
    with trio.fail_after(within):
        while not condition():  # noqa: ASYNC110 - costs nothing in virtual time
            await trio.sleep(0.01)


class HandPeer:
    """A gossip peer that says what a test wants it to say."""

    def __init__(self, overlay: MemoryOverlay) -> None:
        self.overlay = overlay
        self.node_id = overlay.node_id
        self.heard: list[wire.Rpc] = []
        self.streams: list[Stream] = []
        """Streams that the node opened to it."""

    async def meet(self, node: Node, protocol: str = wire.PROTOCOL_12, *, reads: bool = True) -> Stream:
        """Connect, serve gossip (or accept it and never read), return a stream to say things on."""
        self.overlay.serve(protocol, self._hear if reads else self._ignore)
        await self.overlay.connect(node.overlay.listen_addresses()[0])
        stream = await self.overlay.open_stream(node.node_id, protocol)
        await say(stream, wire.Rpc(subscriptions=(wire.Subscription(WIRE_NAME, True),), graft=(WIRE_NAME,)))
        return stream

    async def _hear(self, stream: Stream) -> None:
        self.streams.append(stream)
        reader = FrameReader(wire.MAX_FRAME_BYTES)
        while data := await stream.receive_some():
            self.heard += [wire.decode_rpc(frame) for frame in reader.feed(data)]

    async def _ignore(self, stream: Stream) -> None:
        self.streams.append(stream)
        await trio.sleep_forever()

    def messages(self) -> list[wire.Message]:
        return [message for rpc in self.heard for message in rpc.publish]


async def say(stream: Stream, rpc: wire.Rpc) -> None:
    await stream.send_all(wire.encode_frame(rpc))
