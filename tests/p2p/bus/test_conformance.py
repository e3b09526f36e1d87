"""The same checks on every way that a call can take."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from structlog.testing import capture_logs

from p2p.bus.api import Caller, net_address
from p2p.bus.client import connect
from p2p.bus.door import Door
from p2p.bus.peer import PeerBus
from p2p.bus.router import LocalBus
from p2p.bus.testing import check_bus, check_topics
from p2p.entropy import SeededEntropy
from p2p.identity import NodeId
from p2p.testing.clock import VirtualClock
from p2p.testing.network import Link
from p2p.testing.overlay import MemoryNetwork
from tests.p2p.bus.conftest import NODE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import trio.testing


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Keep the provoked tracebacks from being drawn: that takes longer than all the checks."""
    with capture_logs():
        yield


A, B = NodeId("0x" + "a" * 40), NodeId("0x" + "b" * 40)


async def test_in_process(bus: LocalBus) -> None:
    await check_bus(serving=bus, calling=bus, caller=Caller(NODE, local=True))
    await check_topics(publishing=bus, subscribing=bus)


async def test_own_node_id_is_in_process(bus: LocalBus) -> None:
    await check_bus(serving=bus, calling=bus, called=net_address(NODE, "check"))


async def test_the_node_calls_a_child(bus: LocalBus, door: Door) -> None:
    token = door.issue("child", may_register=["/public/check"])
    async with connect(door.path, token) as child:
        await check_bus(serving=child, calling=bus, caller=Caller(NODE, local=True))


async def test_a_child_calls_the_node(bus: LocalBus, door: Door) -> None:
    token = door.issue("child", may_call=["/local/check"])
    async with connect(door.path, token) as child:
        caller = Caller(NODE, local=True, child="child")
        await check_bus(serving=bus, calling=child, registered="/local/check", caller=caller)


async def test_a_child_calls_itself(door: Door) -> None:
    token = door.issue("child", may_register=["/public/check"], may_call=["/public/check"])
    async with connect(door.path, token) as child:
        await check_bus(serving=child, calling=child, called=net_address(NODE, "check"))


async def test_two_processes_of_the_owner(door: Door) -> None:
    async with connect(door.path, door.owner_token) as one, connect(door.path, door.owner_token) as other:
        await check_bus(
            serving=one, calling=other, registered="/local/check", caller=Caller(NODE, local=True)
        )
        await check_topics(publishing=one, subscribing=other)


async def test_events_between_the_node_and_a_child(bus: LocalBus, door: Door) -> None:
    token = door.issue("child", may_publish=["check"], may_subscribe=["check"])
    async with connect(door.path, token) as child:
        await check_topics(publishing=bus, subscribing=child)
        await check_topics(publishing=child, subscribing=bus, topic="check/back")


async def test_between_peers(autojump_clock: trio.testing.MockClock) -> None:
    network = MemoryNetwork(VirtualClock(), SeededEntropy(1), Link(latency=0.005))
    async with network.overlay(A).running() as a, network.overlay(B).running() as b:
        here, there = LocalBus(A), LocalBus(B)
        async with PeerBus(a, here).running(), PeerBus(b, there).running():
            called = net_address(B, "check")
            await check_bus(serving=there, calling=here, called=called, caller=Caller(A, local=False))


async def test_a_peer_calls_a_child_of_the_other_node(folder: Path) -> None:
    """The way of every exe script: a requestor's node, the network, a provider's node, its door, a supervisor."""
    network = MemoryNetwork(VirtualClock(), SeededEntropy(1), Link(latency=0.0))
    async with network.overlay(A).running() as a, network.overlay(B).running() as b:
        here, there = LocalBus(A), LocalBus(B)
        door = Door(there, f"{folder}/bus.sock", entropy=SeededEntropy(2))
        async with PeerBus(a, here).running(), PeerBus(b, there).running(), door.running():
            token = door.issue("activity", may_register=["/public/exeunit/activity"])
            async with connect(door.path, token) as child:
                await check_bus(
                    serving=child,
                    calling=here,
                    registered="/public/exeunit/activity",
                    called=net_address(B, "exeunit/activity"),
                    caller=Caller(A, local=False),
                )
