"""A node with several identities calls as each of them, and is called by each; nobody calls as who it is not."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from p2p.bus import frames
from p2p.bus.api import Caller, NoEndpoint, RemoteError, net_address
from p2p.bus.frames import Failure, FrameReader, Reply, Request
from p2p.bus.peer import LARGE_BYTES, PeerBus
from p2p.bus.router import LocalBus
from p2p.bus.testing import Probe, check_bus
from p2p.clock import NANOSECONDS
from p2p.discovery import DiscoverySettings
from p2p.entropy import SeededEntropy
from p2p.identity import PrivateKey
from p2p.identity.alias import AliasRecord, issue_alias
from p2p.overlay import protocol_id
from p2p.testing.clock import VirtualClock
from p2p.testing.conformance import eventually
from p2p.testing.network import Link
from p2p.testing.overlay import MemoryNetwork

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

KEYS = [PrivateKey.generate(SeededEntropy(seed, "alias")) for seed in range(4)]
ALIAS, STRANGER = KEYS[3], "0x" + "5" * 40
PROTOCOLS = ("bus", "bus/lone")


class Node:
    """A node that shows what is in `shown`, and serves `/public/a`."""

    def __init__(self, network: MemoryNetwork, key: PrivateKey) -> None:
        self.id = key.node_id
        self.network = network
        self.shown: list[AliasRecord] = []
        self.own: set[str] = set()
        self.overlay = network.overlay(
            key,
            discovery=DiscoverySettings(target_peers=0),
            entropy=SeededEntropy(1, key.node_id),
            aliases=lambda: tuple(self.shown),
        )
        self.bus = LocalBus(key.node_id, aliases=lambda: self.own)
        self.probe = Probe()
        self.bus.register("/public/a", self.probe)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Node]:
        async with self.overlay.running(), PeerBus(self.overlay, self.bus).running():
            yield self

    def show(self, key: PrivateKey, seconds: float = 3600.0) -> None:
        now = self.network.clock.utc_ns()
        self.shown = [issue_alias(key, self.id, "devnet", now, int(seconds * NANOSECONDS))]
        self.own = {key.node_id}


class World:
    def __init__(self) -> None:
        self.network = MemoryNetwork(VirtualClock(), SeededEntropy(1), Link(latency=0.01), directory=False)
        self.a, self.b, self.c = (Node(self.network, key) for key in KEYS[:3])

    async def meet(self, one: Node, other: Node) -> None:
        await one.overlay.connect(other.overlay.listen_addresses()[0])
        await eventually(lambda: any(p.node_id == one.id for p in other.overlay.peers()))


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    async with made.a.running(), made.b.running(), made.c.running():
        yield made


async def raw_call(caller: Node, called: Node, protocol: str, acting: str) -> frames.Frame | None:
    stream = await caller.overlay.open_stream(called.id, protocol_id("devnet", protocol, 1))
    await stream.send_all(frames.encode(Request(0, "/public/a/Echo", b"x", timeout_ms=9000, acting=acting)))
    reader = FrameReader()
    while (frame := reader.next_frame()) is None:
        reader.feed(await stream.receive_some())
    stream.reset()
    return frame


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_the_service_sees_who_acts(autojump_clock: MockClock, world: World, protocol: str) -> None:
    world.a.show(ALIAS)
    await world.meet(world.a, world.b)
    address = net_address(world.b.id, "a")
    body = b"x" if protocol == "bus" else bytes(LARGE_BYTES + 1)
    assert await world.a.bus.call(address + "/Echo", body, acting=ALIAS.node_id) == body
    assert world.b.probe.callers == {Caller(ALIAS.node_id, local=False)}
    async with world.a.bus.stream(address + "/Count", b"2", acting=ALIAS.node_id) as items:
        assert [item async for item in items] == [b"0", b"1"]
    assert world.b.probe.callers == {Caller(ALIAS.node_id, local=False)}
    await world.a.bus.call(address + "/Echo", body)
    await world.a.bus.call(address + "/Echo", body, acting=world.a.id)
    assert world.b.probe.callers == {Caller(ALIAS.node_id, local=False), Caller(world.a.id, local=False)}


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_who_has_proven_nothing_is_refused(
    autojump_clock: MockClock, world: World, protocol: str
) -> None:
    world.a.show(ALIAS)
    world.c.shown = world.a.shown  # a record that is of a, shown by c
    for node in (world.a, world.c):
        await world.meet(node, world.b)
    for acting in (ALIAS.node_id, world.a.id, world.b.id, STRANGER, "nobody"):
        refusal = await raw_call(world.c, world.b, protocol, acting)
        assert isinstance(refusal, Failure), acting
        assert (refusal.error, refusal.kind) == ("service", "forbidden")
    assert not world.b.probe.callers
    assert isinstance(await raw_call(world.a, world.b, protocol, ALIAS.node_id), Reply)
    assert isinstance(await raw_call(world.c, world.b, protocol, world.c.id), Reply), "one may name itself"


async def test_what_has_expired_proves_nothing(autojump_clock: MockClock, world: World) -> None:
    world.a.show(ALIAS, seconds=20)
    await world.meet(world.a, world.b)
    address = net_address(world.b.id, "a") + "/Echo"
    assert await world.a.bus.call(address, b"x", acting=ALIAS.node_id) == b"x"
    await trio.sleep(21)
    with pytest.raises(RemoteError, match="has not proven") as caught:
        await world.a.bus.call(address, b"x", acting=ALIAS.node_id)
    assert caught.value.kind == "forbidden"
    assert await world.a.bus.call(address, b"x") == b"x"


async def test_calls_to_an_alias_reach_who_speaks_for_it(autojump_clock: MockClock, world: World) -> None:
    with pytest.raises(NoEndpoint):
        await world.b.bus.call(net_address(ALIAS.node_id, "a") + "/Echo", b"x")
    world.a.show(ALIAS)
    await world.meet(world.a, world.b)
    called = net_address(ALIAS.node_id, "check")
    await check_bus(
        serving=world.a.bus, calling=world.b.bus, called=called, caller=Caller(world.b.id, local=False)
    )
    await check_bus(
        serving=world.a.bus, calling=world.a.bus, called=called, caller=Caller(world.a.id, local=True)
    )


async def test_an_alias_that_moves_takes_its_calls_along(autojump_clock: MockClock, world: World) -> None:
    world.a.show(ALIAS)
    await world.meet(world.a, world.b)
    address = net_address(ALIAS.node_id, "a") + "/Echo"
    await world.b.bus.call(address, b"x")
    await trio.sleep(1)
    world.a.shown, world.a.own = [], set()
    world.c.show(ALIAS)
    await world.meet(world.c, world.b)
    await trio.sleep(100)  # a hello of a that no longer shows it
    await world.b.bus.call(address, b"x")
    assert world.a.probe.callers == world.c.probe.callers == {Caller(world.b.id, local=False)}


async def test_only_own_identities_act_at_home(autojump_clock: MockClock, world: World) -> None:
    world.a.show(ALIAS)
    bus, own = world.a.bus, "/public/a/Echo"
    await bus.call(own, b"", acting=ALIAS.node_id)
    assert world.a.probe.callers == {Caller(ALIAS.node_id, local=True)}
    for address in (own, net_address(world.b.id, "a") + "/Echo"):
        with pytest.raises(RemoteError, match="no identity of this node") as caught:
            await bus.call(address, b"", acting=STRANGER)
        assert caught.value.kind == "forbidden"
        with pytest.raises(RemoteError, match="no identity of this node"):
            async with bus.stream(address, b"", acting=STRANGER):
                pass
