"""The overlay in memory: conformance on virtual time, and what its links and faults do."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import MockClock

from p2p.entropy import SeededEntropy
from p2p.identity import NodeId, PrivateKey
from p2p.overlay import Overlay, PeerUnreachable, StreamBroken, protocol_id
from p2p.testing.clock import EPOCH_NS, VirtualClock
from p2p.testing.conformance import (
    CHECKS,
    ask,
    broken,
    check_overlay,
    check_stalled_reader,
    check_vanished_peer,
    connect,
    echo,
    eventually,
    serve,
)
from p2p.testing.determinism import Auditor, deterministic_scheduling
from p2p.testing.network import Link
from p2p.testing.overlay import MemoryNetwork

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

ALICE, BOB, CAROL = (NodeId("0x" + digit * 40) for digit in "abc")


@asynccontextmanager
async def pair(link: Link) -> AsyncIterator[tuple[Overlay, Overlay]]:
    network = MemoryNetwork(VirtualClock(), SeededEntropy(1), link)
    a, b = network.overlay(ALICE), network.overlay(BOB)
    async with a.running(), b.running():
        yield a, b


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_conformance(
    check: Callable[[Overlay, Overlay], Awaitable[None]], autojump_clock: MockClock
) -> None:
    async with pair(Link()) as (a, b):
        await check(a, b)


@pytest.mark.parametrize(
    "link",
    [Link(latency=0.0), Link(latency=0.2, jitter=0.1, loss=0.05), Link(bandwidth=20e6)],
    ids=["instant", "lossy", "narrow"],
)
async def test_conformance_on_other_links(link: Link, autojump_clock: MockClock) -> None:
    for check in CHECKS:
        async with pair(link) as (a, b):
            await check(a, b)


async def test_check_overlay_runs_all(autojump_clock: MockClock) -> None:
    await check_overlay(lambda: pair(Link()))


@pytest.mark.parametrize("seconds", [30.0, 3600.0])
async def test_a_reader_may_stall_for_long(autojump_clock: MockClock, seconds: float) -> None:
    async with pair(Link(loss=0.01)) as (a, b):
        await check_stalled_reader(a, b, seconds)


@pytest.mark.parametrize("detection", [0.0, 50.0])
async def test_a_peer_that_vanishes(autojump_clock: MockClock, detection: float) -> None:
    network = MemoryNetwork(VirtualClock(), SeededEntropy(1), detection=detection)
    a, b = network.overlay(ALICE), network.overlay(BOB)
    async with a.running(), b.running():
        await connect(a, b)
        await check_vanished_peer(a, b, lambda: network.isolate(BOB), within=detection + 1)


async def test_clock_starts_at_its_epoch(autojump_clock: MockClock) -> None:
    clock = VirtualClock()
    assert clock.utc_ns() == EPOCH_NS
    await trio.sleep(1.5)
    assert clock.utc_ns() == EPOCH_NS + 1_500_000_000
    assert clock.monotonic() == 1.5


async def test_latency_and_bandwidth_take_their_time(autojump_clock: MockClock) -> None:
    async with pair(Link(latency=0.1, bandwidth=1e6)) as (a, b):
        protocol = serve(b, "echo", echo)
        await connect(a, b)
        stream = await a.open_stream(b.node_id, protocol)
        began = trio.current_time()
        await stream.send_all(b"x")
        assert await stream.receive_some() == b"x"
        assert trio.current_time() - began == pytest.approx(0.2, abs=0.001)
    async with pair(Link(latency=0.01, bandwidth=1e6)) as (a, b):
        protocol = serve(b, "echo", echo)
        await connect(a, b)
        stream = await a.open_stream(b.node_id, protocol)
        began = trio.current_time()
        assert len(await ask(stream, bytes(5_000_000))) == 5_000_000
        assert trio.current_time() - began == pytest.approx(5.1, rel=0.05)


async def test_partition_breaks_streams_and_dials_until_healed(autojump_clock: MockClock) -> None:
    network = MemoryNetwork(VirtualClock(), SeededEntropy(1))
    a, b, c = (network.overlay(name) for name in (ALICE, BOB, CAROL))
    async with a.running(), b.running(), c.running():
        protocol = serve(b, "echo", echo)
        serve(c, "echo", echo)
        await connect(a, b)
        await connect(a, c)
        stream, beside = await a.open_stream(BOB, protocol), await a.open_stream(CAROL, protocol)
        network.partition([ALICE, CAROL], [BOB])
        await broken(stream.receive_some)
        assert await ask(beside, b"same side") == b"same side"
        with pytest.raises(PeerUnreachable, match="did not answer"):
            await a.connect(b.listen_addresses()[0])
        network.heal()
        assert await ask(await a.open_stream(BOB, protocol), b"again") == b"again"


async def test_a_cut_is_noticed_after_its_delay(autojump_clock: MockClock) -> None:
    network = MemoryNetwork(VirtualClock(), SeededEntropy(1), detection=15.0)
    a, b = network.overlay(ALICE), network.overlay(BOB)
    async with a.running(), b.running():
        await connect(a, b)
        network.cut(ALICE, BOB)
        await trio.sleep(14)
        assert a.peers()
        assert b.peers()
        await trio.sleep(2)
        assert not a.peers()
        assert not b.peers()
        network.links.mend(ALICE, BOB)
        await connect(a, b)


async def test_opening_into_silence_is_given_up(autojump_clock: MockClock) -> None:
    network = MemoryNetwork(VirtualClock(), SeededEntropy(1), detection=1000.0)
    a, b = network.overlay(ALICE), network.overlay(BOB)
    async with a.running(), b.running():
        protocol = serve(b, "echo", echo)
        await connect(a, b)
        network.cut(ALICE, BOB)
        with pytest.raises(PeerUnreachable, match="did not answer"):
            await a.open_stream(BOB, protocol)


async def test_faults_of_dials_and_sessions(autojump_clock: MockClock) -> None:
    network = MemoryNetwork(VirtualClock(), SeededEntropy(1))
    a, b = network.overlay(ALICE), network.overlay(BOB)
    async with a.running(), b.running():
        protocol = serve(b, "echo", echo)
        network.links.refuse_dials(BOB, 2)
        for _ in range(2):
            with pytest.raises(PeerUnreachable, match="does not accept"):
                await a.connect(b.listen_addresses()[0])
        await connect(a, b)
        stream = await a.open_stream(BOB, protocol)
        network.stall(ALICE, BOB, 3.0)
        began = trio.current_time()
        await stream.send_all(b"x")
        await stream.receive_some()
        assert trio.current_time() - began >= 3.0
        network.break_sessions(ALICE, BOB)
        await broken(stream.receive_some)
        network.links.close_inbound(BOB)
        with pytest.raises(PeerUnreachable):
            await a.connect(b.listen_addresses()[0])
        await connect(b, a)
        network.isolate(ALICE)
        await eventually(lambda: not b.peers())


async def test_a_link_may_lose_connections(autojump_clock: MockClock) -> None:
    async with pair(Link(breaks=0.01)) as (a, b):
        protocol = serve(b, "echo", echo)
        breaks = 0
        for _ in range(300):
            try:
                assert await ask(await a.open_stream(BOB, protocol), b"x" * 1000) == b"x" * 1000
            except* (StreamBroken, PeerUnreachable):
                breaks += 1
        assert 0 < breaks < 100


async def test_without_a_directory_an_address_has_to_be_known(autojump_clock: MockClock) -> None:
    network = MemoryNetwork(VirtualClock(), SeededEntropy(1), directory=False)
    a, b = network.overlay(ALICE), network.overlay(BOB)
    async with a.running(), b.running():
        protocol = serve(b, "echo", echo)
        with pytest.raises(PeerUnreachable, match="no address"):
            await a.open_stream(BOB, protocol)
        await connect(a, b)
        await a.disconnect(BOB)
        assert await ask(await a.open_stream(BOB, protocol), b"x") == b"x"


async def test_a_closed_node_is_gone_and_may_come_back(autojump_clock: MockClock) -> None:
    network = MemoryNetwork(VirtualClock(), SeededEntropy(1))
    a, b = network.overlay(ALICE), network.overlay(BOB)
    async with a.running():
        async with b.running():
            await connect(a, b)
            with pytest.raises(RuntimeError, match="running"):
                async with network.overlay(BOB).running():
                    pass
        await eventually(lambda: not a.peers())
        with pytest.raises(PeerUnreachable, match="not running"):
            await a.connect(b.listen_addresses()[0])
        async with network.overlay(BOB).running() as b2:
            await connect(a, b2)
    with pytest.raises(PeerUnreachable, match="not running"):
        await a.open_stream(BOB, protocol_id("devnet", "x", 1))


def trace(seed: int, schedule: int) -> str:
    async def main() -> str:
        auditor = Auditor()
        entropy = SeededEntropy(seed)
        network = MemoryNetwork(
            VirtualClock(), entropy, Link(jitter=0.05, loss=0.02, breaks=0.002), auditor=auditor
        )
        nodes = [network.overlay(PrivateKey.generate(entropy)) for _ in range(8)]
        protocol = protocol_id("devnet", "echo", 1)

        async def run(node: Overlay) -> None:
            node.serve(protocol, echo)
            async with node.running():  # type: ignore[attr-defined]
                await trio.sleep(60)

        async def talk(node: Overlay, other: Overlay) -> None:
            try:
                await ask(await node.open_stream(other.node_id, protocol), b"x" * 200_000)
            except* (StreamBroken, PeerUnreachable):
                pass

        async with trio.open_nursery() as nursery:
            for node in nodes:
                nursery.start_soon(run, node)
            await trio.sleep(1)
            for node in nodes:
                for other in nodes:
                    if node is not other:
                        nursery.start_soon(talk, node, other)
        assert auditor.lines > 100
        return auditor.digest()

    with deterministic_scheduling(schedule):
        return trio.run(main, clock=MockClock(autojump_threshold=0))


def test_one_seed_gives_one_trace() -> None:
    assert trace(1, 1) == trace(1, 1)
    assert trace(1, 1) != trace(2, 1)


async def test_a_node_is_reached_at_its_address_and_nowhere_else(autojump_clock: MockClock) -> None:
    network = MemoryNetwork(VirtualClock(), SeededEntropy(1), directory=False)
    with pytest.raises(ValueError, match="PeerId"):
        network.overlay(ALICE, address="/ip4/192.0.2.1/tcp/1")
    a, b = (
        network.overlay(PrivateKey.generate(SeededEntropy(n)), address=f"/ip4/192.0.2.{n}/tcp/1")
        for n in (1, 2)
    )
    asked: list[NodeId] = []

    async def find(node: NodeId) -> list[str]:
        await trio.sleep(1)
        asked.append(node)
        return [b.place]

    async with a.running(), b.running():
        (old,) = b.listen_addresses()
        assert await a.connect(old) == b.node_id
        assert a.peers()[0].address == old
        await a.disconnect(b.node_id)
        b.move(old.replace("192.0.2.2", "192.0.2.9"))
        began = trio.current_time()
        with pytest.raises(PeerUnreachable, match="nobody answered"):
            await a.connect(old)
        assert trio.current_time() > began, "a dial into silence takes its time"
        with pytest.raises(PeerUnreachable, match="did not answer at any"):
            await a.open_stream(b.node_id, serve(b, "echo", echo))
        a.find_addresses = find
        stream = await a.open_stream(b.node_id, serve(b, "echo", echo))
        assert await ask(stream, b"x") == b"x"
        assert asked == [b.node_id]
