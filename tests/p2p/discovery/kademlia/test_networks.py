"""Whole networks on virtual time: everybody is found, also when many leave, when they part, and among liars."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

import pytest
import trio

from p2p import base58, multiaddr
from p2p.discovery.directory import WATCH_INTERVAL
from p2p.discovery.kademlia.contact import Contact, key_of
from p2p.discovery.kademlia.wire import MAX_REQUEST_BYTES, Kind, Message, decode_message, encode_message
from p2p.entropy import SeededEntropy
from p2p.identity import PrivateKey
from p2p.identity.peer_id import peer_id_bytes
from p2p.identity.records import sign_peer_record
from p2p.overlay import StreamBroken
from p2p.protobuf import FrameReader
from tests.p2p.discovery.kademlia.world import Node, Swarm, swarm

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock

    from p2p.overlay import Stream
    from p2p.testing.overlay import MemoryOverlay


async def found(seeker: Node, sought: Node) -> bool:
    return list(await seeker.directory.look_up(sought.node_id)) == [sought.overlay.place]


async def share_found(world: Swarm, count: int) -> float:
    """Return the share of `count` random pairs in which one finds the other."""
    pairs = [world.chance.sample(world.nodes, 2) for _ in range(count)]
    return statistics.mean([await found(a, b) for a, b in pairs])


async def test_everybody_is_found_and_still_is_when_a_third_has_left(autojump_clock: MockClock) -> None:
    async with swarm(48) as world:
        await trio.sleep(60)
        reports = []
        for index, seeker in enumerate(world.nodes):
            assert await found(seeker, world.nodes[index - 7])
            assert seeker.directory.last_report is not None
            reports.append(seeker.directory.last_report)
        assert max(report.hops for report in reports) <= 3
        assert statistics.mean(report.requests for report in reports) < 15
        for node in world.chance.sample(world.nodes, 15):
            await world.leave(node)
        assert await share_found(world, 100) >= 0.99


async def test_a_network_that_parted_finds_itself_again(autojump_clock: MockClock) -> None:
    async with swarm(20) as world:
        await trio.sleep(60)
        left, right = world.nodes[:10], world.nodes[10:]
        world.network.partition([n.node_id for n in left], [n.node_id for n in right])
        await trio.sleep(60)
        assert all([await found(left[i], left[i - 1]) for i in range(10)])
        mover = right[3]
        mover.overlay.move(mover.overlay.place.replace(".7.1/", ".7.2/"))
        await trio.sleep(3 * WATCH_INTERVAL)
        assert all([await found(right[i], mover) for i in range(10) if right[i] is not mover])
        assert not await found(left[0], mover)
        world.network.heal()
        await trio.sleep(2400)  # tables are refreshed, and records handed out again
        assert all([await found(left[i], mover) for i in range(10)])
        assert all([await found(left[i], right[i]) for i in range(10)])


# Those who mean harm.


class Liar:
    """Speaks Kademlia, and answers as a test says."""

    def __init__(self, world: Swarm, key: PrivateKey, place: str, lie: Callable[[Message], Message]) -> None:
        self.overlay: MemoryOverlay = world.network.overlay(key, address=place)
        self.contact = Contact.of(peer_id_bytes(key.public_key), self.overlay.listen_addresses())
        self._lie = lie
        self._protocol = world.nodes[0].kademlia.protocol
        self.asked = 0

    async def run(self, victims: list[Node], task_status: trio.TaskStatus[None]) -> None:
        self.overlay.serve(self._protocol, self._serve)
        async with self.overlay.running():
            for victim in victims:
                await self.overlay.connect(victim.overlay.place)
            task_status.started()
            await trio.sleep_forever()

    async def _serve(self, stream: Stream) -> None:
        reader = FrameReader(MAX_REQUEST_BYTES)
        try:
            while data := await stream.receive_some():
                for frame in reader.feed(data):
                    self.asked += 1
                    await stream.send_all(encode_message(self._lie(decode_message(frame))))
        except StreamBroken:
            pass


def keys_near(target: int, count: int, nearer_than: int) -> list[PrivateKey]:
    """Grind keys whose PeerIds lie nearer to `target` than a given distance."""
    entropy, keys = SeededEntropy(9, "sybils"), list[PrivateKey]()
    while len(keys) < count:
        key = PrivateKey.generate(entropy)
        if key_of(peer_id_bytes(key.public_key)) ^ target < nearer_than:
            keys.append(key)
    return keys


@pytest.mark.parametrize("subnets", ["one", "many"])
async def test_sybils_around_a_record_cannot_hide_it(subnets: str, autojump_clock: MockClock) -> None:
    """Two dozen sybils, all nearer to the record than any honest node, swallow it and tell of each other."""
    async with swarm(30) as world:
        victim = world.nodes[7]
        key = world.rules.key(victim.node_id)
        target = key_of(key)
        bound = min(key_of(node.peer_id) ^ target for node in world.nodes)
        sybils: list[Liar] = []

        def lie(request: Message) -> Message:
            nearest = sorted((s.contact for s in sybils), key=lambda c: c.key ^ target)
            record = request.record if request.kind is Kind.PUT_VALUE else None
            return Message(request.kind, request.key, record, tuple(nearest[:20]))

        for number, sybil_key in enumerate(keys_near(target, 24, bound)):
            place = f"/ip4/66.6.6.{number}/tcp/1" if subnets == "one" else f"/ip4/66.6.{number}.6/tcp/1"
            sybils.append(Liar(world, sybil_key, place, lie))
        async with trio.open_nursery() as nursery:
            for sybil in sybils:
                await nursery.start(sybil.run, world.nodes)
            await trio.sleep(60)
            in_tables = [
                sum(sybil.contact.peer_id in node.kademlia.table for sybil in sybils) for node in world.nodes
            ]
            if subnets == "one":
                assert 0 < max(in_tables) <= world.params.subnet_per_table
            victim.overlay.move(victim.overlay.place.replace(".7.1/", ".7.2/"))  # signed and handed out anew
            await trio.sleep(3 * WATCH_INTERVAL)
            seekers = [node for node in world.nodes if node is not victim]
            hits = [await found(seeker, victim) for seeker in seekers]
            assert sum(sybil.asked for sybil in sybils) > 0
            nursery.cancel_scope.cancel()
        assert all(hits)


async def test_poisoned_answers_do_no_harm(autojump_clock: MockClock) -> None:
    """Liars hand out forged and foreign records, and tell of ten thousand nodes that do not exist."""
    async with swarm(30) as world:
        await trio.sleep(60)
        stranger = PrivateKey.generate(SeededEntropy(5, "stranger"))
        fakes = [
            Contact.of(
                peer_id,
                [f"/ip4/{99 + n // 250 % 40}.{n % 250}.3.{n // 10_000}/tcp/1/p2p/{base58.encode(peer_id)}"],
            )
            for n in range(10_000)
            for peer_id in [b"\x12\x20" + n.to_bytes(32, "big")]
        ]
        now_ns = world.network.clock.utc_ns()
        forged = sign_peer_record(stranger, now_ns, [multiaddr.parse("/ip4/6.6.6.6/tcp/1")])
        lies = iter(range(10**9))

        def lie(request: Message) -> Message:
            n = next(lies)
            real = world.rules.sign(stranger, now_ns, ["/ip4/6.6.6.6/tcp/1"]) or b""
            record = (None, forged, real[:-1], b"garbage", None)[n % 5]
            if request.kind is not Kind.GET_VALUE:
                record = request.record
            return Message(request.kind, request.key, record, tuple(fakes[n * 20 % 10_000 :][:20]))

        liars = [
            Liar(world, PrivateKey.generate(SeededEntropy(n, "liar")), f"/ip4/66.6.{n}.6/tcp/1", lie)
            for n in range(5)
        ]
        async with trio.open_nursery() as nursery:
            for liar in liars:
                await nursery.start(liar.run, world.nodes)
            await trio.sleep(30)
            assert any(liar.contact.peer_id in node.kademlia.table for liar in liars for node in world.nodes)
            dials = sum(node.kademlia.counters["dials"] for node in world.nodes)
            for index, seeker in enumerate(world.nodes):
                assert await found(seeker, world.nodes[index - 1])
                assert seeker.directory.last_report is not None
                assert seeker.directory.last_report.seconds < 15
            dials = sum(node.kademlia.counters["dials"] for node in world.nodes) - dials
            assert dials < 30 * len(world.nodes)
            nursery.cancel_scope.cancel()
        fake_ids = {fake.peer_id for fake in fakes}
        for node in world.nodes:
            assert not fake_ids & {contact.peer_id for contact in node.kademlia.table.contacts()}
            assert all("6.6.6.6" not in a for addresses in node.learned.values() for a in addresses)
            assert len(node.kademlia.store) <= 30
