"""Many routers on virtual time: everything arrives, within bounds, the same way for the same seed."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p.broadcast import Verdict
from p2p.broadcast.params import GossipParams
from p2p.broadcast.sign import StrictSign
from p2p.identity import PrivateKey
from tests.p2p.broadcast.swarm import TOPIC, Swarm

if TYPE_CHECKING:
    from p2p.broadcast.wire import Rpc


def _records(count: int, size: int = 100) -> list[bytes]:
    return [f"record {i} ".encode().ljust(size, b".") for i in range(count)]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_everything_reaches_everyone_though_a_fifth_of_all_messages_is_lost(seed: int) -> None:
    chance = random.Random(seed)
    swarm = Swarm(50, seed, lost=lambda _a, _b, rpc: bool(rpc.publish) and chance.random() < 0.2)
    swarm.connect_some(10)
    swarm.run(3)
    records = _records(40)
    for i, record in enumerate(records):
        swarm.publish(swarm.names[i % 50], record)
        swarm.run(0.1)
    swarm.run(6)
    assert [swarm.reached(record) for record in records] == [50] * 40


def test_nodes_that_the_mesh_never_reaches_ask_for_what_they_hear_of() -> None:
    deaf = {f"n{i:03}" for i in range(10)}

    def lost(sender: str, receiver: str, rpc: Rpc) -> bool:
        asked = rpc.publish and rpc.publish[0].id in wanted.get((receiver, sender), ())
        if rpc.iwant:
            wanted.setdefault((sender, receiver), set()).update(rpc.iwant)
        return receiver in deaf and bool(rpc.publish) and not asked

    wanted: dict[tuple[str, str], set[bytes]] = {}
    swarm = Swarm(50, 4, lost=lost)
    swarm.connect_some(20)
    swarm.run(3)
    records = _records(20)
    for record in records:
        swarm.publish("n049", record)
        swarm.run(0.2)
    swarm.run(6)
    assert [swarm.reached(record) for record in records] == [50] * 20
    assert sum(swarm.routers[name].counters["asked"] for name in deaf) >= 200


@settings(max_examples=10, deadline=None)
@given(count=st.integers(2, 20), seed=st.integers(0, 1000), degree=st.sampled_from([4, 8]))
def test_any_connected_swarm_delivers(count: int, seed: int, degree: int) -> None:
    swarm = Swarm(count, seed)
    if count > degree:
        swarm.connect_some(degree)
    else:
        swarm.connect_all()
    for i, record in enumerate(_records(5)):
        swarm.publish(swarm.names[i % count], record)
    swarm.run(8)
    assert [swarm.reached(record) for record in _records(5)] == [count] * 5
    assert not swarm.resets


def test_a_line_of_nodes_delivers_end_to_end() -> None:
    swarm = Swarm(12)
    for a, b in zip(swarm.names, swarm.names[1:], strict=False):
        swarm.connect(a, b)
    swarm.run(0.5)
    swarm.publish("n000", b"record")
    swarm.run(2)
    assert swarm.reached(b"record") == 12


def test_each_owner_is_asked_once_and_copies_stay_near_the_degree() -> None:
    swarm = Swarm(50, 5)
    swarm.connect_some(20)
    swarm.run(5)
    swarm.sent.clear()
    records = _records(20)
    for i, record in enumerate(records):
        swarm.publish(swarm.names[i], record)
        swarm.run(0.3)
    swarm.run(5)
    assert all(count == 1 for counter in swarm.got.values() for count in counter.values())
    assert swarm.sent["publish"] / (20 * 49) < 9, "copies per delivery"


def test_large_messages_are_announced_so_that_fewer_copies_travel() -> None:
    def copies(threshold: int) -> float:
        swarm = Swarm(30, 6, params=GossipParams(idontwant_bytes=threshold))
        swarm.connect_some(16)
        swarm.run(5)
        swarm.sent.clear()
        for name in swarm.names[:10]:
            swarm.publish(name, name.encode().ljust(2000))
            swarm.run(1)
        assert swarm.sent["idontwant"] > 0 or threshold > 2000
        return swarm.sent["publish"] / (10 * 29)

    assert copies(1024) < copies(4096)


def test_meshes_settle_within_their_bounds_and_stand_at_both_ends() -> None:
    swarm = Swarm(40, 7)
    swarm.connect_all()
    swarm.run(10)
    meshes = {name: set(router.mesh(TOPIC)) for name, router in swarm.routers.items()}
    assert all(4 <= len(mesh) <= 12 for mesh in meshes.values())
    assert all(name in meshes[peer] for name, mesh in meshes.items() for peer in mesh)
    assert not any(router.counters["early_grafts"] for router in swarm.routers.values())


def test_the_mesh_mends_when_half_of_the_nodes_vanish() -> None:
    swarm = Swarm(30, 8)
    swarm.connect_all()
    swarm.run(5)
    alive, gone = swarm.names[:15], swarm.names[15:]
    for a in alive:
        for b in gone:
            swarm.disconnect(a, b)
    swarm.run(3)
    assert all(len(swarm.routers[name].mesh(TOPIC)) >= 4 for name in alive)
    swarm.publish(alive[0], b"record")
    swarm.run(2)
    assert swarm.reached(b"record") == 15


def test_one_seed_gives_one_trace() -> None:
    def trace(seed: int) -> str:
        swarm = Swarm(20, seed)
        swarm.connect_some(8)
        for name in swarm.names:
            swarm.publish(name, name.encode())
            swarm.run(0.5)
        return swarm.digest()

    assert trace(1) == trace(1)
    assert trace(1) != trace(2)


def test_a_bad_record_goes_no_further_than_the_first_hop_and_its_sender_falls_silent() -> None:
    swarm = Swarm(20, 9, judge=lambda _, data: Verdict.REJECT if b"bad" in data else Verdict.ACCEPT)
    for a, b in zip(swarm.names, swarm.names[1:], strict=False):
        swarm.connect(a, b)
    swarm.run(2)
    for i in range(7):
        swarm.publish("n000", b"bad %d" % i)
        swarm.run(0.5)
    assert all(swarm.reached(b"bad %d" % i) == 2 for i in range(6))
    assert "n000" not in swarm.routers["n001"].mesh(TOPIC)
    swarm.publish("n000", b"good")
    swarm.publish("n001", b"from the neighbour")
    swarm.run(3)
    assert swarm.reached(b"good") == 1, "only itself: it is ignored by now"
    assert swarm.reached(b"from the neighbour") == 19
    assert swarm.routers["n002"].points(swarm.now, "n001") == 0.0
    swarm.run(400)
    swarm.publish("n000", b"forgiven")
    swarm.run(3)
    assert swarm.reached(b"forgiven") == 20


def test_with_real_keys() -> None:
    keys = {f"n{i:03}": PrivateKey(bytes((i + 1,)) * 32) for i in range(8)}
    swarm = Swarm(8, 10, seal=lambda name: StrictSign(keys[name]))
    swarm.connect_all()
    swarm.run(2)
    swarm.publish("n003", b"record")
    swarm.run(1)
    assert swarm.reached(b"record") == 8
