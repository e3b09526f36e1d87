"""One router, told what peers say, and what it then wants done."""

from __future__ import annotations

import functools
import operator
import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.broadcast import MAX_RECORD_BYTES, Verdict
from p2p.broadcast.effects import Blamed, Deliver, Effect, Reset, Send
from p2p.broadcast.params import GossipParams
from p2p.broadcast.router import Router
from p2p.broadcast.score import Fault, Standing
from p2p.broadcast.wire import IHave, Message, Rpc, Subscription, encode_rpc
from tests.p2p.broadcast.swarm import PlainSeal

TOPIC = "/golem-p2p/devnet/offers/1"
HELLO = Rpc(subscriptions=(Subscription(TOPIC, True),))


class _Node:
    """A router that has joined the topic, with peers that have too; the first four are in its mesh."""

    def __init__(self, peers: int = 4, params: GossipParams = GossipParams()) -> None:  # noqa: B008 - frozen
        self.router = Router(params, PlainSeal("me"), random.Random(1), 1000)
        self.peers = [f"p{i:02}" for i in range(peers)]
        self.router.join(0.0, TOPIC)
        for peer in self.peers:
            self.router.peer_added(0.0, peer)
            self.router.peer_speaks(peer, idontwant=True)
            self.router.rpc_received(0.0, peer, HELLO)

    def hear(self, peer: str, *messages: Message, now: float = 0.0) -> list[Effect]:
        return self.router.rpc_received(now, peer, Rpc(publish=messages))


def _message(seqno: int = 1, author: str = "author", data: bytes = b"record", topic: str = TOPIC) -> Message:
    return PlainSeal(author).sign(Message(author.encode(), data, seqno.to_bytes(8, "big"), topic))


def _receivers(effects: list[Effect]) -> list[str]:
    return [effect.peer for effect in effects if isinstance(effect, Send) and effect.rpc.publish]


# Messages.


def test_a_new_message_is_delivered_then_forwarded_to_the_mesh_but_not_back() -> None:
    node, message = _Node(), _message()
    assert node.hear("p00", message) == [Deliver("p00", TOPIC, message.id, b"record")]
    effects = node.router.validated(0.1, message.id, Verdict.ACCEPT)
    assert effects == [Send(peer, Rpc(publish=(message,))) for peer in ("p01", "p02", "p03")]
    assert effects[0].rpc is effects[1].rpc, "so that the driver encodes it once"  # type: ignore[union-attr]


def test_a_second_copy_is_counted_and_its_sender_not_sent_it() -> None:
    node, message = _Node(), _message()
    node.hear("p00", message)
    assert node.hear("p01", message) == []
    assert _receivers(node.router.validated(0.1, message.id, Verdict.ACCEPT)) == ["p02", "p03"]
    assert node.hear("p02", message) == []
    assert node.router.counters["duplicates"] == 2


def test_an_ignored_message_goes_no_further_and_nobody_is_blamed() -> None:
    node, message = _Node(), _message()
    node.hear("p00", message)
    assert node.router.validated(0.1, message.id, Verdict.IGNORE) == []
    assert node.router.points(0.1, "p00") == 0.0
    assert node.router.validated(0.1, message.id, Verdict.ACCEPT) == [], "it is judged once"


def test_all_who_sent_a_rejected_message_are_blamed() -> None:
    node, message = _Node(), _message()
    node.hear("p00", message)
    node.hear("p01", message)
    effects = node.router.validated(0.0, message.id, Verdict.REJECT)
    assert effects == [Blamed("p00", Fault.REJECTED), Blamed("p01", Fault.REJECTED)]
    assert [node.router.points(0.0, peer) for peer in node.peers] == [10.0, 10.0, 0.0, 0.0]
    assert node.router.counters["rejected"] == 2


@pytest.mark.parametrize(
    "message",
    [
        msgspec.structs.replace(_message(), data=b"changed"),
        _message(data=b""),
        _message(data=b"x" * (MAX_RECORD_BYTES + 1)),
    ],
)
def test_a_forged_empty_or_oversized_message_is_dropped_and_its_sender_blamed(message: Message) -> None:
    node = _Node()
    (effect,) = node.hear("p00", message)
    assert effect in (Blamed("p00", Fault.FORGED), Blamed("p00", Fault.OVERSIZED))
    assert node.router.points(0.0, "p00") == 10.0


def test_a_forgery_does_not_keep_the_real_one_out() -> None:
    node, message = _Node(), _message()
    node.hear("p00", msgspec.structs.replace(message, data=b"forged"))
    assert node.hear("p01", message) == [Deliver("p01", TOPIC, message.id, b"record")]


def test_what_cannot_be_verified_is_dropped_without_blame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PlainSeal, "check", lambda *_: Verdict.IGNORE)
    node = _Node()
    assert node.hear("p00", _message()) == []
    assert node.router.points(0.0, "p00") == 0.0


def test_other_topics_our_own_echo_and_strangers_are_nothing() -> None:
    node = _Node()
    assert node.hear("p00", _message(topic="other")) == []
    assert node.hear("p00", _message(author="me")) == []
    assert node.hear("stranger", _message()) == []
    assert node.router.frame_received(0.0, "stranger", b"\xff") == []


def test_too_much_under_validation_is_dropped_as_if_it_never_came() -> None:
    node = _Node(params=GossipParams(max_pending=3, max_pending_per_peer=2))
    assert len(node.hear("p00", *(_message(i) for i in range(4)))) == 2
    assert len(node.hear("p01", *(_message(i) for i in range(4)))) == 1
    node.router.validated(0.0, _message(0).id, Verdict.ACCEPT)
    assert len(node.hear("p00", _message(3))) == 1
    assert node.router.counters["overflow"] == 3
    assert [node.router.pending(peer) for peer in ("p00", "p01", "stranger")] == [2, 1, 0]


def test_an_id_is_known_for_two_minutes() -> None:
    node, message = _Node(), _message()
    node.hear("p00", message)
    node.router.validated(0.0, message.id, Verdict.IGNORE)
    node.router.heartbeat(119.0)
    assert node.hear("p00", message, now=119.0) == []
    node.router.heartbeat(120.0)
    assert len(node.hear("p00", message, now=120.0)) == 1


# Our own messages.


def test_our_own_message_goes_to_all_peers_of_the_topic_while_they_are_few() -> None:
    node = _Node(24)
    node.router.peer_added(0.0, "elsewhere")
    assert _receivers(node.router.publish(0.0, TOPIC, b"record")) == node.peers


def test_our_own_message_goes_to_the_mesh_filled_up_when_they_are_many() -> None:
    node = _Node(25)
    receivers = _receivers(node.router.publish(0.0, TOPIC, b"record"))
    assert len(receivers) == len(set(receivers)) == 6
    assert set(node.router.mesh(TOPIC)) <= set(receivers)


def test_a_topic_need_not_be_joined_to_publish_on_it() -> None:
    node = _Node()
    node.router.rpc_received(0.0, "p02", Rpc(subscriptions=(Subscription("other", True),)))
    assert _receivers(node.router.publish(0.0, "other", b"record")) == ["p02"]


def test_sequence_numbers_rise_and_messages_are_signed() -> None:
    node = _Node(1)
    sent = [node.router.publish(0.0, TOPIC, b"record")[0] for _ in range(2)]
    messages = [effect.rpc.publish[0] for effect in sent if isinstance(effect, Send)]
    assert [int.from_bytes(message.seqno, "big") for message in messages] == [1000, 1001]
    assert all(PlainSeal("x").check(message) is Verdict.ACCEPT for message in messages)


@pytest.mark.parametrize("size", [0, MAX_RECORD_BYTES + 1])
def test_a_record_has_a_size(size: int) -> None:
    with pytest.raises(ValueError, match="8192 bytes"):
        _Node().router.publish(0.0, TOPIC, b"x" * size)


# Don't-want.


def test_a_large_message_is_announced_to_the_rest_of_the_mesh() -> None:
    node, message = _Node(5), _message(data=b"x" * 1024)
    node.router.peer_speaks("p02", idontwant=False)
    effects = node.hear("p00", message)
    assert [e for e in effects if isinstance(e, Send)] == [
        Send("p01", Rpc(idontwant=(message.id,))),
        Send("p03", Rpc(idontwant=(message.id,))),
    ]
    assert node.hear("p00", _message(2, data=b"x" * 1023)) == [
        Deliver("p00", TOPIC, _message(2).id, b"x" * 1023)
    ]


def test_who_does_not_want_a_message_is_not_sent_it_for_a_while() -> None:
    node, message = _Node(), _message()
    node.router.rpc_received(0.0, "p01", Rpc(idontwant=(message.id,)))
    node.hear("p00", message)
    assert _receivers(node.router.validated(0.1, message.id, Verdict.ACCEPT)) == ["p02", "p03"]
    node.router.heartbeat(5.0)
    assert not node.router._peers["p01"].unwanted


def test_what_a_peer_does_not_want_is_bounded() -> None:
    node = _Node(params=GossipParams(max_ihave_ids=10))
    node.router.rpc_received(0.0, "p01", Rpc(idontwant=tuple(bytes((i,)) for i in range(50))))
    assert len(node.router._peers["p01"].unwanted) == 10


# Have and want.


def test_the_heartbeat_tells_those_outside_the_mesh_for_three_heartbeats() -> None:
    node, message = _Node(20), _message()
    node.hear("p00", message)
    node.router.validated(0.0, message.id, Verdict.ACCEPT)
    told = [
        [e.peer for e in node.router.heartbeat(now) if isinstance(e, Send) and e.rpc.ihave]
        for now in (1.0, 2.0, 3.0, 4.0)
    ]
    assert [len(peers) for peers in told] == [6, 6, 6, 0]
    assert not set(node.router.mesh(TOPIC)) & set(functools.reduce(operator.iadd, told, []))


def test_a_quarter_is_told_when_that_is_more() -> None:
    node, message = _Node(64), _message()
    node.hear("p00", message)
    node.router.validated(0.0, message.id, Verdict.ACCEPT)
    assert len([e for e in node.router.heartbeat(1.0) if isinstance(e, Send) and e.rpc.ihave]) == 15


def test_a_new_subscriber_is_told_what_it_just_missed() -> None:
    node = _Node(1)
    node.router.publish(0.0, TOPIC, b"record")
    node.router.peer_added(0.0, "late")
    effects = node.router.rpc_received(0.0, "late", HELLO)
    assert [len(have.ids) for e in effects if isinstance(e, Send) for have in e.rpc.ihave] == [1]


def test_unknown_ids_are_asked_of_one_peer_at_a_time() -> None:
    node = _Node()
    have = Rpc(ihave=(IHave(TOPIC, (b"a", b"b")),))
    assert node.router.rpc_received(0.0, "p00", have) == [Send("p00", Rpc(iwant=(b"a", b"b")))]
    assert node.router.rpc_received(0.5, "p01", have) == []
    assert node.router.rpc_received(1.0, "p02", have) == [Send("p02", Rpc(iwant=(b"a", b"b")))]


def test_known_ids_other_topics_and_bad_peers_are_not_followed() -> None:
    node, message = _Node(), _message()
    node.hear("p00", message)
    assert node.router.rpc_received(0.0, "p01", Rpc(ihave=(IHave(TOPIC, (message.id,)),))) == []
    assert node.router.rpc_received(0.0, "p01", Rpc(ihave=(IHave("other", (b"a",)),))) == []
    node.router.blamed(0.0, "p01", Fault.BAD_SYNC)
    assert node.router.rpc_received(0.0, "p01", Rpc(ihave=(IHave(TOPIC, (b"a",)),))) == []


def test_asking_is_bounded_in_each_heartbeat() -> None:
    node = _Node(params=GossipParams(max_ihave_ids=5, max_ihaves=3))
    many = tuple(bytes((i,)) for i in range(50))
    [effect] = node.router.rpc_received(0.0, "p00", Rpc(ihave=(IHave(TOPIC, many),)))
    assert isinstance(effect, Send)
    assert len(effect.rpc.iwant) == 5
    asked = [
        node.router.rpc_received(0.0, "p01", Rpc(ihave=(IHave(TOPIC, (b"x%d" % i,)),))) for i in range(5)
    ]
    assert [len(effects) for effects in asked] == [1, 1, 1, 0, 0]
    node.router.heartbeat(1.0)
    assert len(node.router.rpc_received(1.0, "p01", Rpc(ihave=(IHave(TOPIC, (b"y",)),)))) == 1


def test_who_asks_gets_the_message_three_times() -> None:
    node, message = _Node(), _message()
    node.hear("p00", message)
    assert node.router.rpc_received(0.0, "p01", Rpc(iwant=(message.id,))) == [], "not judged yet"
    node.router.validated(0.0, message.id, Verdict.ACCEPT)
    answers = [node.router.rpc_received(0.0, "p01", Rpc(iwant=(message.id, b"unknown"))) for _ in range(4)]
    assert answers == [[Send("p01", Rpc(publish=(message,)))]] * 3 + [[]]


def test_answers_are_split_into_frames_and_bounded_in_bytes() -> None:
    node = _Node(params=GossipParams(max_answer_bytes=200_000))
    ids = []
    for i in range(40):
        [effect, *_] = node.router.publish(0.0, TOPIC, b"x" * 8000)
        assert isinstance(effect, Send)
        ids.append(effect.rpc.publish[0].id)
        assert i < 40
    effects = node.router.rpc_received(0.0, "p00", Rpc(iwant=tuple(ids)))
    assert [len(e.rpc.publish) for e in effects if isinstance(e, Send)] == [2] * 12
    assert all(len(encode_rpc(e.rpc)) < 17_000 for e in effects if isinstance(e, Send))


# Faults.


def test_a_bad_frame_resets_the_stream_and_costs_the_mesh() -> None:
    node = _Node()
    effects = node.router.frame_received(0.0, "p00", b"\x0a\xff")
    assert [type(e) for e in effects] == [Blamed, Reset, Send]
    assert node.router.standing(0.0, "p00") is Standing.OUTSIDE
    assert "p00" not in node.router.mesh(TOPIC)
    assert node.router.counters["bad_frames"] == 1


def test_a_good_frame_is_an_rpc() -> None:
    node, message = _Node(), _message()
    frame = encode_rpc(Rpc(publish=(message,)))
    assert node.router.frame_received(0.0, "p00", frame) == [Deliver("p00", TOPIC, message.id, b"record")]


def test_who_goes_on_is_ignored_until_its_points_are_forgiven() -> None:
    node = _Node(5)
    effects = [e for i in range(8) for e in node.hear("p00", msgspec.structs.replace(_message(i), data=b"!"))]
    assert [e.peer for e in effects if isinstance(e, Reset)] == ["p00"]
    assert node.router.counters["forged"] == 6, "the rest was not looked at"
    assert node.hear("p00", _message()) == []
    assert "p00" not in _receivers(node.router.publish(0.0, TOPIC, b"record"))
    assert "p00" not in [e.peer for e in node.router.heartbeat(1.0) if isinstance(e, Send)]
    assert node.router.peer_added(1.0, "p00") == []
    assert len(node.hear("p00", _message(), now=200.0)) == 1


def test_reconnecting_clears_nothing() -> None:
    node = _Node()
    node.hear("p00", msgspec.structs.replace(_message(), data=b"!"))
    node.router.peer_removed("p00")
    node.router.peer_added(0.0, "p00")
    assert node.router.points(0.0, "p00") == 10.0


def test_an_early_graft_costs() -> None:
    node = _Node()
    node.router.blamed(0.0, "p00", Fault.BAD_SYNC)
    before = node.router.points(0.0, "p00")
    node.router.rpc_received(0.0, "p00", Rpc(graft=(TOPIC,)))
    assert node.router.points(0.0, "p00") == before + 5.0


# Peers and topics.


def test_a_peer_is_greeted_with_our_topics() -> None:
    node = _Node(0)
    node.router.join(0.0, "second")
    [effect] = node.router.peer_added(0.0, "p00")
    assert effect == Send("p00", Rpc(subscriptions=(Subscription(TOPIC, True), Subscription("second", True))))


def test_a_graft_says_that_the_peer_takes_part() -> None:
    node = _Node(0)
    node.router.peer_added(0.0, "p00")
    node.router.rpc_received(0.0, "p00", Rpc(graft=(TOPIC,)))
    assert node.router.subscribers(TOPIC) == node.router.mesh(TOPIC) == ["p00"]
    node.router.peer_removed("p00")
    assert node.router.subscribers(TOPIC) == node.router.mesh(TOPIC) == []


def test_a_peer_that_leaves_the_topic_is_not_sent_to() -> None:
    node = _Node()
    node.router.rpc_received(0.0, "p00", Rpc(subscriptions=(Subscription(TOPIC, False),)))
    assert _receivers(node.router.publish(0.0, TOPIC, b"record")) == ["p01", "p02", "p03"]


def test_topics_of_a_peer_are_bounded() -> None:
    node = _Node(params=GossipParams(max_topics_per_peer=3))
    many = tuple(Subscription(f"topic {i}", True) for i in range(10))
    node.router.rpc_received(0.0, "p00", Rpc(subscriptions=many))
    assert len(node.router._peers["p00"].topics) == 3


def test_leaving_ends_forwarding() -> None:
    node, message = _Node(), _message()
    node.hear("p00", message)
    node.router.leave(0.0, TOPIC)
    assert node.router.validated(0.0, message.id, Verdict.ACCEPT) == []
    assert node.hear("p01", _message(2)) == []
    assert node.router.join(0.0, TOPIC) != []
    assert node.router.join(0.0, TOPIC) == [], "joined already"


@given(st.lists(st.binary(max_size=120), max_size=20))
def test_no_bytes_from_a_peer_break_the_router(frames: list[bytes]) -> None:
    node = _Node()
    for i, frame in enumerate(frames):
        node.router.frame_received(i * 10.0, "p00", frame)
        node.router.heartbeat(i * 10.0)
