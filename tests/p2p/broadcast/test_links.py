"""The outbound queue, and what goes when it is full."""

from __future__ import annotations

from p2p.broadcast.links import WRITE_BYTES, SendQueue
from p2p.broadcast.wire import IHave, Message, Prune, Rpc, Subscription

GOSSIP = Rpc(ihave=(IHave("t", (b"i",)),))
MESSAGE = Rpc(publish=(Message(b"a", b"d", b"s", "t"),))
STATE = (Rpc(graft=("t",)), Rpc(prune=(Prune("t"),)), Rpc(subscriptions=(Subscription("t", True),)))


def test_frames_leave_in_order_and_together() -> None:
    queue = SendQueue()
    for frame in (b"one", b"two", b"three"):
        assert queue.put(MESSAGE, frame) is None
    assert queue.take() == b"onetwothree"
    assert queue.take() == b""


def test_one_write_is_bounded_but_takes_at_least_a_frame() -> None:
    queue = SendQueue()
    for size in (WRITE_BYTES + 10, WRITE_BYTES - 10, 10, 1):
        queue.put(MESSAGE, b"x" * size)
    assert [len(queue.take()) for _ in range(3)] == [WRITE_BYTES + 10, WRITE_BYTES, 1]


def test_the_oldest_gossip_goes_first_then_messages_then_the_rest() -> None:
    queue = SendQueue(capacity=4)
    for rpc, frame in ((STATE[0], b"G"), (MESSAGE, b"m"), (GOSSIP, b"1"), (GOSSIP, b"2")):
        assert queue.put(rpc, frame) is None
    assert queue.put(STATE[1], b"P") == "dropped_gossip"
    assert queue.put(MESSAGE, b"n") == "dropped_gossip"
    assert queue.put(STATE[2], b"S") == "dropped_messages"
    assert queue.put(GOSSIP, b"3") == "dropped_gossip", "itself: all others matter more"
    assert queue.put(STATE[0], b"g") == "dropped_messages"
    assert queue.put(STATE[0], b"h") == "dropped_state"
    assert queue.take() == b"PSgh"


def test_what_was_meant_for_a_broken_stream_is_dropped() -> None:
    queue = SendQueue()
    queue.put(MESSAGE, b"m")
    queue.clear()
    assert len(queue) == 0
    assert queue.take() == b""
