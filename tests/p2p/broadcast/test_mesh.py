"""Grafts, prunes and backoffs of one node."""

from __future__ import annotations

import random

import pytest

from p2p.broadcast.effects import Effects, Send
from p2p.broadcast.mesh import Meshes
from p2p.broadcast.params import GossipParams
from p2p.broadcast.wire import Prune, Rpc, Subscription

PARAMS = GossipParams()
PEERS = [f"p{i:02}" for i in range(30)]


class _Node:
    def __init__(self, subscribers: list[str] = PEERS) -> None:
        self.bad: set[str] = set()
        self.meshes = Meshes(PARAMS, random.Random(1), lambda _now, peer: peer not in self.bad)
        self.out = Effects()
        self.meshes.join(0.0, "t", [], self.out)
        for peer in subscribers:
            self.meshes.subscribed(0.0, peer, "t", self.out)
        self.said()

    @property
    def mesh(self) -> list[str]:
        return list(self.meshes.of("t"))

    def said(self) -> dict[str, Rpc]:
        effects, self.out = self.out.take(), Effects()
        return {effect.peer: effect.rpc for effect in effects if isinstance(effect, Send)}


def test_first_subscribers_are_grafted_at_once_up_to_the_lower_bound() -> None:
    assert _Node().mesh == PEERS[:4]


def test_joining_tells_everyone_and_grafts_who_takes_part() -> None:
    node = _Node([])
    for peer in PEERS[:10]:
        node.meshes.subscribed(0.0, peer, "u", node.out)
    node.meshes.join(0.0, "u", PEERS[:12], node.out)
    said = node.said()
    assert all(said[peer].subscriptions == (Subscription("u", True),) for peer in PEERS[:12])
    assert {peer for peer in said if said[peer].graft} == set(node.meshes.of("u"))
    assert len(list(node.meshes.of("u"))) == 6


def test_leaving_prunes_with_a_short_backoff() -> None:
    node = _Node(PEERS[:3])
    node.meshes.leave(0.0, "t", PEERS[:4], node.out)
    said = node.said()
    assert all(said[peer].prune == (Prune("t", 10),) for peer in PEERS[:3])
    assert all(said[peer].subscriptions == (Subscription("t", False),) for peer in PEERS[:4])
    assert "t" not in node.meshes


def test_a_graft_is_taken_until_the_mesh_is_full() -> None:
    node = _Node()
    for peer in PEERS[4:12]:
        assert node.meshes.grafted(0.0, peer, "t", node.out)
    assert node.said() == {}
    assert node.meshes.grafted(0.0, PEERS[12], "t", node.out), "no fault: it could not know"
    assert node.said() == {PEERS[12]: Rpc(prune=(Prune("t", 60),))}
    assert len(node.mesh) == 12


def test_a_graft_of_an_unknown_topic_gets_no_answer() -> None:
    node = _Node()
    assert node.meshes.grafted(0.0, "p00", "unknown", node.out)
    assert node.said() == {}


def test_a_graft_by_a_peer_of_bad_standing_is_pruned() -> None:
    node = _Node([])
    node.bad.add("p00")
    assert node.meshes.grafted(0.0, "p00", "t", node.out)
    assert node.said()["p00"].prune
    assert node.mesh == []


def test_a_graft_within_the_backoff_is_pruned_and_makes_it_longer() -> None:
    node = _Node(PEERS[:4])
    node.meshes.expel(0.0, "p00", node.out)
    node.said()
    assert not node.meshes.grafted(50.0, "p00", "t", node.out)
    assert node.said() == {"p00": Rpc(prune=(Prune("t", 60),))}
    assert not node.meshes.grafted(109.0, "p00", "t", node.out)
    assert node.meshes.grafted(170.0, "p00", "t", node.out)
    assert "p00" in node.mesh


@pytest.mark.parametrize(("asked", "waited"), [(0, 62.0), (20, 22.0), (10**9, 602.0)])
def test_a_prune_is_obeyed_for_as_long_as_it_says_within_reason(asked: int, waited: float) -> None:
    node = _Node(["p00"])
    node.meshes.pruned(0.0, "p00", Prune("t", asked))
    assert node.mesh == []
    node.meshes.maintain(waited - 0.1, node.out)
    assert node.mesh == []
    node.meshes.maintain(waited, node.out)
    assert node.mesh == ["p00"]


def test_the_heartbeat_fills_a_thin_mesh() -> None:
    node = _Node()
    for peer in PEERS[:2]:
        node.meshes.unsubscribed(peer, "t")
    node.meshes.maintain(1.0, node.out)
    assert len(node.mesh) == 6
    assert [peer for peer, rpc in node.said().items() if rpc.graft == ("t",)] == node.mesh[2:]


def test_the_heartbeat_thins_a_full_mesh() -> None:
    node = _Node()
    for i, peer in enumerate(PEERS[4:12]):
        node.meshes.grafted(0.0, peer, "t", node.out)
        assert len(node.mesh) == 5 + i
    node.meshes._meshes["t"]["p20"] = None  # both ends grafted in the same moment
    node.meshes.maintain(1.0, node.out)
    assert len(node.mesh) == 6
    assert all(rpc.prune == (Prune("t", 60),) for rpc in node.said().values())


def test_the_heartbeat_removes_who_fell_from_grace() -> None:
    node = _Node()
    node.bad.add("p01")
    node.meshes.maintain(1.0, node.out)
    assert "p01" not in node.mesh
    assert node.said()["p01"].prune


def test_a_greeting_repeats_grafts_that_may_have_been_lost() -> None:
    node = _Node(["p00"])
    node.meshes.greet("p00", node.out)
    node.meshes.greet("p01", node.out)
    assert node.said() == {
        "p00": Rpc(subscriptions=(Subscription("t", True),), graft=("t",)),
        "p01": Rpc(subscriptions=(Subscription("t", True),)),
    }


def test_a_peer_that_left_is_in_nothing() -> None:
    node = _Node(["p00", "p01"])
    node.meshes.remove("p00", ["t"])
    assert node.mesh == ["p01"]
    assert list(node.meshes.subscribers("t")) == ["p01"]


def test_backoffs_are_bounded() -> None:
    node = _Node([])
    for i in range(PARAMS.max_backoffs + 5):
        node.meshes.pruned(0.0, f"peer {i}", Prune("t", 60))
    assert len(node.meshes._backoff) == PARAMS.max_backoffs
