"""Kademlia on overlays in memory: what is served, what is refused, who is entered, what it leaves behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from p2p.discovery.kademlia.params import KademliaParams
from p2p.discovery.kademlia.wire import (
    MAX_ANSWER_BYTES,
    MAX_REQUEST_BYTES,
    Kind,
    Message,
    decode_message,
    encode_message,
)
from p2p.discovery.records import RecordRefused
from p2p.overlay import StreamBroken
from p2p.protobuf import FrameReader, encode_varint
from p2p.testing.conformance import eventually
from tests.p2p.discovery.kademlia.world import LINGER, Node, Swarm, swarm

if TYPE_CHECKING:
    from trio.testing import MockClock

    from p2p.overlay import Stream


async def answer_on(stream: Stream) -> Message:
    reader = FrameReader(MAX_ANSWER_BYTES)
    while True:
        data = await stream.receive_some()
        assert data, "the stream ended without an answer"
        for frame in reader.feed(data):
            return decode_message(frame)


async def opened(a: Node, b: Node) -> Stream:
    return await a.overlay.open_stream(b.node_id, b.kademlia.protocol)


async def is_reset(stream: Stream) -> bool:
    try:
        return await stream.receive_some() != b"" and False
    except StreamBroken:
        return True


async def until_broken(stream: Stream) -> None:
    while await stream.receive_some():
        pass


def knows(a: Node, b: Node) -> bool:
    return b.peer_id in a.kademlia.table


async def test_many_requests_may_come_on_one_stream(autojump_clock: MockClock) -> None:
    async with swarm(3) as world:
        a, b, c = world.nodes
        await eventually(lambda: knows(b, c))
        stream = await opened(a, b)
        for _ in range(3):
            await stream.send_all(encode_message(Message(Kind.FIND_NODE, c.peer_id)))
            answer = await answer_on(stream)
            assert [contact.peer_id for contact in answer.closer] == [c.peer_id]
        await stream.send_all(encode_message(Message(Kind.PING)))
        assert await answer_on(stream) == Message(Kind.PING)
        await stream.aclose()


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff" * 100,
        encode_varint(MAX_REQUEST_BYTES + 1),
        b"\x02\x08\x09",
        encode_message(Message(Kind.PUT_VALUE, b"/pk/x", b"value")),
        encode_message(Message(Kind.PUT_VALUE, b"/golem-p2p/devnet/node/" + bytes(20), b"value")),
    ],
    ids=repr,
)
async def test_what_is_no_request_resets_its_stream_and_nothing_else(
    garbage: bytes, autojump_clock: MockClock
) -> None:
    async with swarm(2) as world:
        a, b = world.nodes
        stream = await opened(a, b)
        await stream.send_all(garbage)
        assert await is_reset(stream)
        assert b.kademlia.counters["refused"] == 1
        assert len(b.kademlia.store) == 0
        fine = await opened(a, b)
        await fine.send_all(encode_message(Message(Kind.PING)))
        assert await answer_on(fine) == Message(Kind.PING)


async def test_one_peer_cannot_ask_without_end(autojump_clock: MockClock) -> None:
    params = KademliaParams(inbound_burst=30, inbound_rate=1.0, max_inbound_per_peer=2)
    async with swarm(2, params=params) as world:
        a, b = world.nodes
        await trio.sleep(25)  # what the two have to ask each other is over
        held = [await opened(a, b) for _ in range(2)]
        for stream in held:
            await stream.send_all(encode_message(Message(Kind.PING)))
            await answer_on(stream)
        assert await is_reset(await opened(a, b)), "a third stream at once is too many"
        await held[0].send_all(encode_message(Message(Kind.PING)) * 100)
        with pytest.raises(StreamBroken):
            await until_broken(held[0])
        assert b.kademlia.counters["served"] <= 40


async def test_streams_that_ask_nothing_are_ended(autojump_clock: MockClock) -> None:
    async with swarm(2) as world:
        a, b = world.nodes
        stream = await opened(a, b)
        began = trio.current_time()
        assert await is_reset(stream)
        assert trio.current_time() - began == pytest.approx(world.params.inbound_idle, abs=1)


async def test_who_serves_nobody_is_in_no_table_but_finds_and_is_found(autojump_clock: MockClock) -> None:
    async with swarm(5) as world:
        client = world.make(99, serves=False)
        await world.start(client, world.nodes[:2])
        await trio.sleep(60)
        assert not any(knows(node, client) for node in world.nodes)
        assert len(client.kademlia.table) == 5
        assert await client.directory.look_up(world.nodes[4].node_id)
        for node in world.nodes[:5]:
            assert await node.directory.look_up(client.node_id) == (client.overlay.place,)
        found = await world.nodes[0].kademlia.find_peer(client.peer_id)
        assert found is None or found.addresses == (client.overlay.place,)


async def test_a_node_without_kademlia_is_met_and_left_alone(autojump_clock: MockClock) -> None:
    async with swarm(3) as world:
        plain = world.network.overlay(world.make(50).key, address="/ip4/30.0.0.1/tcp/1")
        async with plain.running():
            await plain.connect(world.nodes[0].overlay.place)
            await trio.sleep(30)
            assert len(world.nodes[0].kademlia.table) == 2
            assert [p.node_id for p in plain.peers()] == [world.nodes[0].node_id]


async def test_sessions_that_lookups_made_are_ended_and_others_are_not(autojump_clock: MockClock) -> None:
    async with swarm(12, contacts=1) as world:
        newest = world.nodes[-1]
        (contact,) = newest.overlay.peers()
        await eventually(lambda: len(newest.overlay.peers()) > 5)
        await trio.sleep(2 * LINGER + 30)
        assert [peer.node_id for peer in newest.overlay.peers()] == [contact.node_id]
        assert len(newest.kademlia.table) == 11, "whom we know outlasts the sessions"


async def test_contacts_that_are_gone_leave_the_table(autojump_clock: MockClock) -> None:
    async with swarm(6) as world:
        await trio.sleep(60)
        gone = world.nodes[3]
        await world.leave(gone)
        await trio.sleep(2 * world.params.check_after)
        assert not any(knows(node, gone) for node in world.nodes)
        assert all(len(node.kademlia.table) == 4 for node in world.nodes)


async def test_a_peer_is_found_by_its_peer_id(autojump_clock: MockClock) -> None:
    async with swarm(30) as world:
        await trio.sleep(60)
        sought = world.nodes[29]
        for node in world.nodes[:10]:
            found = await node.kademlia.find_peer(sought.peer_id)
            assert found is not None
            assert found.addresses == (sought.overlay.place,)
        nearest = await world.nodes[0].kademlia.closest(sought.peer_id)
        assert nearest[0].peer_id == sought.peer_id
        assert len(nearest) == 20


async def test_only_good_records_are_put(autojump_clock: MockClock) -> None:
    async with swarm(3) as world:
        a, b, _ = world.nodes
        await trio.sleep(60)
        value = world.rules.sign(a.key, world.network.clock.utc_ns(), a.overlay.listen_addresses())
        assert value is not None
        with pytest.raises(RecordRefused):
            await b.kademlia.put(world.rules.key(b.node_id), value)
        keepers, _ = await b.kademlia.put(world.rules.key(a.node_id), value)
        assert keepers == 2


async def test_a_search_mends_the_nearest_that_lack_the_record(autojump_clock: MockClock) -> None:
    async with swarm(8) as world:
        await trio.sleep(60)
        sought, finder = world.nodes[1], world.nodes[2]
        key, now_ns = world.rules.key(sought.node_id), world.network.clock.utc_ns()
        for node in world.nodes[2:]:
            node.kademlia.store._records.pop(key)
        record, _ = await finder.kademlia.find(key)
        assert record is not None
        await eventually(lambda: sum(n.kademlia.store.get(key, now_ns) is not None for n in world.nodes) >= 5)


def test_a_swarm_is_reproducible() -> None:
    assert Swarm(3).make(1).node_id == Swarm(3).make(1).node_id
