"""The directory: nodes are found by their NodeId alone, by the newest record, wherever they moved."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest
import trio

from p2p.discovery import DiscoverySettings
from p2p.discovery.directory import MISSING_FOR, WATCH_INTERVAL, Directory, make_directory
from p2p.discovery.kademlia import key_of
from p2p.entropy import SeededEntropy
from p2p.identity import NodeId, PrivateKey
from p2p.overlay import PeerUnreachable
from p2p.testing.clock import VirtualClock
from p2p.testing.conformance import ask, echo, serve
from p2p.testing.network import Link
from p2p.testing.overlay import MemoryNetwork
from tests.p2p.discovery.kademlia.world import Node, Swarm, place, swarm

if TYPE_CHECKING:
    from trio.testing import MockClock

    from p2p.testing.overlay import MemoryOverlay

NOBODY = NodeId("0x" + "00" * 20)


def strangers(world: Swarm) -> tuple[Node, Node]:
    """Return two nodes that have no session and no word of each other."""
    for a in world.nodes:
        for b in world.nodes:
            if a is not b and all(peer.node_id != b.node_id for peer in a.overlay.peers()):
                return a, b
    raise AssertionError("everybody is connected with everybody")


async def test_streams_reach_a_node_that_was_never_met(autojump_clock: MockClock) -> None:
    async with swarm(15, contacts=1) as world:
        await trio.sleep(300)
        a, b = strangers(world)
        protocol = serve(b.overlay, "echo", echo)
        stream = await a.overlay.open_stream(b.node_id, protocol)
        assert stream.peer == b.node_id
        assert await ask(stream, b"hello") == b"hello"
        assert a.learned == {b.node_id: (b.overlay.place,)}


async def test_on_nodes_with_hello_and_an_address_book(autojump_clock: MockClock) -> None:
    """All that a node runs but libp2p: discovery, hello, address book, directory."""
    network = MemoryNetwork(VirtualClock(), SeededEntropy(1), Link(latency=0.02), directory=False)
    async with AsyncExitStack() as stack:
        nodes: list[tuple[MemoryOverlay, Directory]] = []
        for number in range(16):
            entropy = SeededEntropy(1, f"node/{number}")
            key = PrivateKey.generate(entropy)
            overlay = network.overlay(
                key,
                discovery=DiscoverySettings(target_peers=3),
                entropy=entropy,
                bootstrap=[nodes[number // 2][0].place] if nodes else [],
                address=place(number),
            )
            assert overlay.discovery is not None
            directory = make_directory(
                key,
                overlay,
                overlay.discovery,
                acceptable=lambda address: address.startswith("/ip4/"),
                clock=network.clock,
                entropy=entropy,
                diverse=True,
            )
            overlay.find_addresses = directory.look_up
            await stack.enter_async_context(overlay.running())
            await stack.enter_async_context(directory.running())
            nodes.append((overlay, directory))
        await trio.sleep(120)
        assert all(directory.published for _, directory in nodes)
        assert all(directory.nodes == 15 for _, directory in nodes)
        (first, directory), (last, _) = nodes[0], nodes[-1]
        assert first.discovery is not None
        protocol = serve(last, "echo", echo)
        await first.disconnect(last.node_id)
        first.discovery.policy._book.clear()
        assert await ask(await first.open_stream(last.node_id, protocol), b"x") == b"x"
        assert directory.counters["found"] == 1
        assert first.discovery.policy.addresses_of(last.node_id) == [last.place]


async def test_a_node_that_moved_is_found_where_it_is(autojump_clock: MockClock) -> None:
    async with swarm(15, contacts=1) as world:
        await trio.sleep(300)
        a, b = strangers(world)
        protocol = serve(b.overlay, "echo", echo)
        await (await a.overlay.open_stream(b.node_id, protocol)).aclose()
        await a.overlay.disconnect(b.node_id)
        place = b.overlay.place.replace(".7.1/", ".7.2/")
        b.overlay.move(place)
        await trio.sleep(2 * WATCH_INTERVAL)
        assert await a.directory.look_up(b.node_id) == (place,)
        stream = await a.overlay.open_stream(b.node_id, protocol)
        assert await ask(stream, b"hello") == b"hello"


async def test_nobody_is_not_found_and_not_looked_for_again_at_once(autojump_clock: MockClock) -> None:
    async with swarm(5) as world:
        await trio.sleep(60)
        directory = world.nodes[0].directory
        lookups = world.nodes[0].kademlia.counters["lookups"]
        with pytest.raises(PeerUnreachable, match="nor found by others"):
            await world.nodes[0].overlay.open_stream(NOBODY, "/x")
        for _ in range(5):
            assert await directory.find(NOBODY) == ()
        assert world.nodes[0].kademlia.counters["lookups"] == lookups + 1
        await trio.sleep(MISSING_FOR)
        assert await directory.find(NOBODY) == ()
        assert world.nodes[0].kademlia.counters["lookups"] == lookups + 2
        assert await directory.find(NodeId("no node id")) == ()
        assert await directory.find(world.nodes[0].node_id) == ()


async def test_many_who_ask_for_one_node_share_a_lookup(autojump_clock: MockClock) -> None:
    async with swarm(12, contacts=1) as world:
        await trio.sleep(300)
        a, b = strangers(world)
        before, found = a.kademlia.counters["lookups"], []

        async def find() -> None:
            found.append(await a.directory.find(b.node_id))

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(find)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(find)
        assert found == [(b.overlay.place,)] * 11
        assert a.kademlia.counters["lookups"] == before + 1


async def test_who_gives_up_waiting_stops_nobody_else(autojump_clock: MockClock) -> None:
    async with swarm(12, contacts=1) as world:
        await trio.sleep(300)
        a, b = strangers(world)
        with trio.move_on_after(0.01) as patience:
            await a.directory.find(b.node_id)
        assert patience.cancelled_caught
        assert await a.directory.find(b.node_id) == (b.overlay.place,)


async def test_what_the_address_book_has_is_not_looked_up(autojump_clock: MockClock) -> None:
    async with swarm(3) as world:
        await trio.sleep(60)
        a, b, _ = world.nodes
        a.learned[b.node_id] = ("/ip4/1.2.3.4/tcp/1",)
        lookups = a.kademlia.counters["lookups"]
        assert await a.directory.find(b.node_id) == ("/ip4/1.2.3.4/tcp/1",)
        assert a.kademlia.counters["lookups"] == lookups


async def test_a_clock_that_went_back_does_not_hide_a_node(autojump_clock: MockClock) -> None:
    """The record that is out has a number from the future, as far as the node that starts again can tell."""
    async with swarm(6) as world:
        await trio.sleep(60)
        b = world.nodes[3]
        ahead = world.network.clock.utc_ns() + 300 * 10**9
        value = world.rules.sign(b.key, ahead, ["/ip4/20.3.9.9/tcp/4001"])
        assert value is not None
        await b.kademlia.put(world.rules.key(b.node_id), value)
        b.overlay.move(b.overlay.place.replace(".7.1/", ".7.2/"))
        await trio.sleep(2 * WATCH_INTERVAL)
        record, _ = await world.nodes[0].kademlia.find(world.rules.key(b.node_id))
        assert record is not None
        assert record.seq == ahead + 1
        assert record.addresses == (b.overlay.place,)


async def test_records_are_handed_out_again_less_and_less_often(autojump_clock: MockClock) -> None:
    async with swarm(3) as world:
        published = []
        for hours in (1, 3, 12):
            await trio.sleep(hours * 3600)
            published.append(world.nodes[2].directory.counters["published"])
        assert 3 <= published[0] <= 4
        assert published[0] + 1 <= published[1] <= published[0] + 3
        assert published[1] + 1 <= published[2] <= published[1] + 3
        assert await world.nodes[0].directory.look_up(world.nodes[2].node_id) == (
            world.nodes[2].overlay.place,
        )


async def test_where_old_records_are_out_the_newest_is_found_at_the_second_try(
    autojump_clock: MockClock,
) -> None:
    """The nodes nearest to a record have missed its last change, as after a partition."""
    async with swarm(24) as world:
        await trio.sleep(60)
        moved, seeker = world.nodes[3], world.nodes[20]
        key, old = world.rules.key(moved.node_id), moved.overlay.place
        keepers = sorted(world.nodes, key=lambda node: key_of(node.peer_id) ^ key_of(key))
        place = old.replace(".7.1/", ".7.2/")
        newer = world.rules.sign(moved.key, world.network.clock.utc_ns(), [place])
        assert newer is not None
        knows = next(node for node in keepers[12:] if node not in (moved, seeker))
        knows.kademlia.store.put(key, newer, world.network.clock.utc_ns())
        assert await seeker.directory.look_up(moved.node_id) == (old,)
        assert await seeker.directory.look_up(moved.node_id) == (place,), (
            "now the old one is known, and not asked for"
        )
