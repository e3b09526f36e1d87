"""Whole nodes on an overlay in memory: gossip, sync, bad peers, slow peers, partitions. Virtual time throughout."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio
from trio.testing import MockClock

from p2p.broadcast import MAX_RECORD_BYTES, Verdict, wire
from p2p.broadcast.params import GossipParams
from p2p.broadcast.sign import StrictSign
from p2p.identity import PrivateKey
from p2p.overlay import StreamBroken
from p2p.testing.determinism import Auditor, deterministic_scheduling
from tests.p2p.broadcast.world import NAME, WIRE_NAME, HandPeer, Node, Store, World, record, say, until

if TYPE_CHECKING:
    from p2p.identity import NodeId
    from p2p.overlay import Stream


def _message(data: bytes, seqno: int = 1) -> wire.Message:
    seal = StrictSign(PrivateKey(b"\x77" * 32))
    return seal.sign(wire.Message(seal.author, data, seqno.to_bytes(8, "big"), WIRE_NAME))


async def test_what_one_publishes_reaches_all(autojump_clock: MockClock) -> None:
    async with World(10) as world:
        await world.connect_ring()
        await world.connect(0, 5)
        for number, node in enumerate(world.nodes):
            await node.publish(record(f"offer of {number}"))
        await until(lambda: all(len(node.store.kept) == 10 for node in world.nodes), 5)
        assert all(len(node.store.asked) == 9 for node in world.nodes), "each record is judged once"
        assert not any(node.count("syncs_failed") for node in world.nodes)


async def test_a_burst_is_taken_as_fast_as_records_are_judged(autojump_clock: MockClock) -> None:
    class Slow(Store):
        async def receive(self, data: bytes, source: NodeId) -> Verdict:
            await trio.sleep(0.2)
            return await super().receive(data, source)

    async with World(2) as world:
        node = world.nodes[1]
        node.broadcast._topics[NAME] = node.store = Slow()
        await world.connect(0, 1)
        await trio.sleep(1)
        for i in range(300):
            await world.nodes[0].publish(record(f"offer {i}"))
        await until(lambda: len(node.store.kept) == 300, 6)
        assert (node.count("overflow"), node.count("synced_in")) == (0, 0)
        assert world.nodes[0].count("dropped_messages") == 0


async def test_a_late_joiner_gets_everything_that_its_peers_hold(autojump_clock: MockClock) -> None:
    async with World(4) as world:
        await world.connect_all()
        for i in range(300):
            await world.nodes[i % 4].publish(record(f"offer {i:04}", size=200))
        await until(lambda: all(len(node.store.kept) == 300 for node in world.nodes), 10)
        await trio.sleep(200)  # gossip has forgotten by now
        late = await world.add()
        for number in range(3):
            await world.connect(4, number)
        await until(lambda: len(late.store.kept) == 300, 5)
        await until(lambda: late.count("synced_in") == 300, 5)
        assert len(late.store.asked) == 300, "three peers at once, yet each record is fetched once"


async def test_who_was_dialled_gets_everything_too(autojump_clock: MockClock) -> None:
    async with World(2) as world:
        await world.nodes[0].publish(record("early"))
        await world.nodes[1].publish(record("another"))
        await trio.sleep(200)
        await world.connect(0, 1)
        await until(lambda: all(len(node.store.kept) == 2 for node in world.nodes), 5)
        await until(lambda: [node.count("synced_in") for node in world.nodes] == [1, 1], 5)


async def test_equal_holdings_cost_one_exchange_and_no_records(autojump_clock: MockClock) -> None:
    async with World(2) as world:
        await world.connect(0, 1)
        await world.nodes[0].publish(record("offer"))
        await trio.sleep(120)
        assert world.nodes[0].count("syncs") + world.nodes[1].count("syncs") >= 4
        assert [node.count("synced_in") for node in world.nodes] == [0, 0]


async def test_a_partition_that_heals_is_repaired_by_sync(autojump_clock: MockClock) -> None:
    async with World(10) as world:
        left, right = world.nodes[:5], world.nodes[5:]
        for a in range(5):
            for b in range(a):
                await world.connect(a, b)
                await world.connect(5 + a, 5 + b)
        await world.connect(0, 5)
        await trio.sleep(5)
        world.network.partition([node.node_id for node in left], [node.node_id for node in right])
        await left[1].publish(record("left"))
        await right[1].publish(record("right"))
        await right[2].publish(record("moved", 2))
        await trio.sleep(300)
        assert all("right" not in node.store.kept for node in left)
        world.network.heal()
        await world.connect(0, 5)
        want = {"left": 1, "right": 1, "moved": 2}
        await until(lambda: sum(node.store.held() == want for node in world.nodes) >= 8, 15)
        await until(lambda: all(node.store.held() == want for node in world.nodes), 60)


async def test_a_withdrawal_reaches_who_missed_it(autojump_clock: MockClock) -> None:
    async with World(2) as world:
        await world.connect(0, 1)
        await world.nodes[0].publish(record("offer", 1))
        await until(lambda: world.nodes[1].store.held() == {"offer": 1}, 5)
        await world.nodes[1].overlay.disconnect(world.nodes[0].node_id)
        await trio.sleep(1)
        await world.nodes[0].publish(record("offer", 2))
        await trio.sleep(200)
        await world.connect(1, 0)
        await until(lambda: world.nodes[1].store.held() == {"offer": 2}, 5)


# Peers that misbehave.


async def test_a_forged_message_is_dropped_and_a_good_one_taken(autojump_clock: MockClock) -> None:
    async with World(2) as world:
        await world.connect(0, 1)
        forger = await world.add_by_hand()
        stream = await forger.meet(world.nodes[0])
        forged = msgspec.structs.replace(_message(record("offer")), data=record("forged"))
        await say(stream, wire.Rpc(publish=(forged,)))
        await say(stream, wire.Rpc(publish=(_message(record("offer")),)))
        await until(lambda: world.nodes[1].store.held() == {"offer": 1}, 5)
        assert world.nodes[0].store.sources == [forger.node_id], "who forwarded it, not who wrote it"
        assert world.nodes[0].count("forged") == 1
        assert world.nodes[0].broadcast.points(forger.node_id) > 0


@pytest.mark.parametrize("garbage", [b"\x05\xff\xff\xff\xff\xff", b"\xff" * 200, b"\x0a\x0a\xff"])
async def test_garbage_resets_its_stream_and_the_node_goes_on(
    autojump_clock: MockClock, garbage: bytes
) -> None:
    async with World(2) as world:
        await world.connect(0, 1)
        vandal = await world.add_by_hand()
        stream = await vandal.meet(world.nodes[0])
        await stream.send_all(garbage)
        if garbage == b"\x0a\x0a\xff":  # the frame is not complete yet
            await stream.send_all(b"\xff" * 8)
        await until(lambda: world.nodes[0].count("bad_frames") == 1, 5)
        await _until_reset(stream)
        assert vandal.node_id not in world.nodes[0].broadcast.mesh(NAME)
        await world.nodes[1].publish(record("offer"))
        await until(lambda: "offer" in world.nodes[0].store.kept, 5)


async def test_who_sends_bad_records_falls_out_of_the_mesh_then_silent(autojump_clock: MockClock) -> None:
    async with World(2) as world:
        node = world.nodes[0]
        await world.connect(0, 1)
        peer = await world.add_by_hand()
        stream = await peer.meet(node)
        await until(lambda: peer.node_id in node.broadcast.mesh(NAME), 5)
        for seqno in range(2):
            await say(stream, wire.Rpc(publish=(_message(b"bad", seqno),)))
        await until(lambda: node.count("rejected") == 2, 5)
        assert peer.node_id not in node.broadcast.mesh(NAME)
        for seqno in range(2, 7):
            await say(stream, wire.Rpc(publish=(_message(b"bad", seqno),)))
        await _until_reset(stream)
        stream = await peer.overlay.open_stream(node.node_id, wire.PROTOCOL_12)
        await _until_reset(stream)
        assert len(world.nodes[1].store.asked) == 0, "nothing bad went on"
        assert node.broadcast.points(world.nodes[1].node_id) == 0.0
        peer.heard.clear()
        await node.publish(record("offer"))
        await until(lambda: "offer" in world.nodes[1].store.kept, 5)
        assert peer.messages() == []


async def test_a_peer_that_does_not_read_loses_messages_and_delays_nobody(autojump_clock: MockClock) -> None:
    async with World(2) as world:
        node = world.nodes[0]
        await world.connect(0, 1)
        slow = await world.add_by_hand()
        await slow.meet(node, reads=False)
        await until(lambda: len(node.broadcast.mesh(NAME)) == 2, 5)
        start = trio.current_time()
        for i in range(200):
            await node.publish(record(f"offer {i}", size=8000))
            if i % 20 == 19:
                await trio.sleep(0.1)
        assert trio.current_time() - start < 2, "publishing never waits"
        await until(lambda: len(world.nodes[1].store.kept) == 200, 5)
        assert node.count("dropped_messages") > 50
        assert len(slow.streams) == 1
        await until(lambda: len(slow.streams) == 2, 35)


async def test_an_owner_that_fails_or_hangs_costs_only_its_records(autojump_clock: MockClock) -> None:
    class Trouble(Store):
        async def receive(self, data: bytes, source: NodeId) -> Verdict:
            if data.startswith(b"hang"):
                await trio.sleep_forever()
            if data.startswith(b"fail"):
                raise RuntimeError("a mistake of its own")
            return await super().receive(data, source)

    async with World(2) as world:
        node = world.nodes[1]
        node.broadcast._topics[NAME] = node.store = Trouble()
        await world.connect(0, 1)
        await trio.sleep(1)
        for data in (record("hang"), record("fail"), record("offer")):
            await world.nodes[0].publish(data)
        await until(lambda: node.store.held() == {"offer": 1}, 5)
        await until(lambda: node.count("receive_timeouts") == 1, 15)
        assert node.count("receive_failed") >= 1, "a sync brings the record again"
        assert set(world.errors) == {"RuntimeError('a mistake of its own')"}
        world.errors.clear()
        assert node.broadcast.points(world.nodes[0].node_id) == 0.0


# Streams and versions.


async def test_a_peer_of_version_1_1_takes_part_without_idontwant(autojump_clock: MockClock) -> None:
    async with World(1) as world:
        old, new = await world.add_by_hand(900), await world.add_by_hand(901)
        await old.meet(world.nodes[0], wire.PROTOCOL_11)
        stream = await new.meet(world.nodes[0])
        await until(lambda: len(world.nodes[0].broadcast.mesh(NAME)) == 2, 5)
        await say(stream, wire.Rpc(publish=(_message(record("offer", size=2000)),)))
        await until(lambda: len(old.messages()) == 1, 5)
        third = await world.add_by_hand(902)
        stream = await third.meet(world.nodes[0])
        await until(lambda: len(world.nodes[0].broadcast.mesh(NAME)) == 3, 5)
        await say(stream, wire.Rpc(publish=(_message(record("next", size=2000), 2),)))
        await until(lambda: len(new.messages()) == 1, 5)
        assert not any(rpc.idontwant for rpc in old.heard)
        assert sum(len(rpc.idontwant) for rpc in new.heard) == 1


async def test_a_broken_stream_is_made_anew_and_greeted_again(autojump_clock: MockClock) -> None:
    async with World(1) as world:
        peer = await world.add_by_hand()
        await peer.meet(world.nodes[0])
        await until(lambda: len(peer.heard) > 0, 5)
        peer.heard.clear()
        peer.streams[0].reset()
        await until(lambda: len(peer.streams) == 2 and len(peer.heard) > 0, 5)
        assert peer.heard[0].subscriptions == (wire.Subscription(WIRE_NAME, True),)
        await world.nodes[0].publish(record("offer"))
        await until(lambda: len(peer.messages()) == 1, 5)


async def test_a_peer_that_begins_to_gossip_later_is_noticed(autojump_clock: MockClock) -> None:
    async with World(1) as world:
        overlay = world.network.overlay(PrivateKey(b"\x42" * 32))
        async with overlay.running():
            await overlay.connect(world.nodes[0].overlay.listen_addresses()[0])
            await world.nodes[0].publish(record("offer"))
            await trio.sleep(150)
            peer = HandPeer(overlay)
            await peer.meet(world.nodes[0])
            await until(lambda: len(peer.heard) > 0, 3)


async def test_only_the_newest_inbound_stream_of_a_peer_is_read(autojump_clock: MockClock) -> None:
    async with World(1) as world:
        peer = await world.add_by_hand()
        first = await peer.meet(world.nodes[0])
        second = await peer.overlay.open_stream(world.nodes[0].node_id, wire.PROTOCOL_12)
        await _until_reset(first)
        await say(second, wire.Rpc(publish=(_message(record("offer")),)))
        await until(lambda: world.nodes[0].store.held() == {"offer": 1}, 5)


async def test_a_broadcast_can_be_stopped_and_started_again(autojump_clock: MockClock) -> None:
    async with World(2) as world:
        first, second = world.nodes
        await world.connect(0, 1)
        third = Node(world, 2, GossipParams())
        async with third.overlay.running():
            async with third.broadcast.running():
                await third.broadcast.join(third.store)
                await world.connect(0, 1)
                await third.overlay.connect(first.overlay.listen_addresses()[0])
                await first.publish(record("one"))
                await until(lambda: third.store.held() == {"one": 1}, 5)
            await second.publish(record("two"))
            await trio.sleep(200)
            assert third.store.held() == {"one": 1}
            async with third.broadcast.running():
                await until(lambda: third.store.held() == {"one": 1, "two": 1}, 60)


async def test_it_does_not_run_twice(autojump_clock: MockClock) -> None:
    async with World(1) as world:
        with pytest.raises(RuntimeError, match="running already"):
            async with world.nodes[0].broadcast.running():
                pass


async def test_a_topic_is_joined_once_and_before_publishing(autojump_clock: MockClock) -> None:
    async with World(1) as world:
        broadcast = world.nodes[0].broadcast
        with pytest.raises(ValueError, match="joined already"):
            await broadcast.join(Store())
        with pytest.raises(ValueError, match="not joined"):
            await broadcast.publish("other/1", b"x")
        with pytest.raises(ValueError, match="8192 bytes"):
            await broadcast.publish(NAME, b"x" * (MAX_RECORD_BYTES + 1))


async def test_a_topic_joined_later_is_synced_soon(autojump_clock: MockClock) -> None:
    async with World(2) as world:
        await world.connect(0, 1)
        stores = [Store("second/1"), Store("second/1")]
        stores[0].keep(record("early"))
        await trio.sleep(20)
        for node, store in zip(world.nodes, stores, strict=True):
            await node.broadcast.join(store)
        await until(lambda: stores[1].held() == {"early": 1}, 10)


async def _until_reset(stream: Stream) -> None:
    with trio.fail_after(5), suppress(StreamBroken):
        while await stream.receive_some():
            pass
        raise AssertionError("the stream was finished, not reset")


def test_one_seed_gives_one_course() -> None:
    def course(seed: int) -> tuple[str, int]:
        async def main() -> tuple[str, int]:
            auditor = Auditor()
            async with World(6, seed=seed, auditor=auditor) as world:
                await world.connect_ring()
                for i in range(20):
                    await world.nodes[i % 6].publish(record(f"offer {i}"))
                    await trio.sleep(0.5)
                await trio.sleep(120)
                for node in world.nodes:
                    auditor.record(
                        trio.current_time(), node.node_id, str(sorted(node.broadcast.counters().items()))
                    )
            return auditor.digest(), auditor.lines

        with deterministic_scheduling(seed):
            return trio.run(main, clock=MockClock(autojump_threshold=0))

    first = course(1)
    assert course(1) == first
    assert course(2)[0] != first[0]
