"""What is remembered, and for how long."""

from __future__ import annotations

from p2p.broadcast.cache import ExpiringIds, MessageCache
from p2p.broadcast.wire import Message


def _message(name: str, topic: str = "t") -> Message:
    return Message(b"author", b"data", name.encode().rjust(8), topic)


def test_ids_are_forgotten_in_time() -> None:
    ids = ExpiringIds(120.0, 10)
    ids.add(0.0, b"a")
    ids.add(50.0, b"b")
    ids.expire(119.9)
    assert b"a" in ids
    ids.expire(120.0)
    assert b"a" not in ids
    assert b"b" in ids


def test_an_id_seen_again_stays_longer() -> None:
    ids = ExpiringIds(120.0, 10)
    ids.add(0.0, b"a")
    ids.add(1.0, b"b")
    ids.add(100.0, b"a")
    ids.expire(130.0)
    assert b"a" in ids
    assert b"b" not in ids


def test_ids_are_bounded_and_the_oldest_goes() -> None:
    ids = ExpiringIds(120.0, 3)
    for name in (b"a", b"b", b"c", b"d"):
        ids.add(0.0, name)
    assert len(ids) == 3
    assert b"a" not in ids


def test_ids_are_told_for_three_heartbeats_and_messages_kept_for_five() -> None:
    cache = MessageCache(5, 3, 100)
    message = _message("a")
    cache.put(message)
    told, kept = [], []
    for _ in range(7):
        told.append(cache.gossip_ids("t") == [message.id])
        kept.append(len(cache))
        cache.shift()
    assert told == [True] * 3 + [False] * 4
    assert kept == [1] * 5 + [0] * 2


def test_only_the_topics_own_ids_are_told_newest_window_first() -> None:
    cache = MessageCache(5, 3, 100)
    cache.put(_message("old"))
    cache.shift()
    cache.put(_message("new"))
    cache.put(_message("other", "u"))
    assert cache.gossip_ids("t") == [_message("new").id, _message("old").id]


def test_a_peer_gets_a_message_three_times_another_still_does() -> None:
    cache = MessageCache(5, 3, 100)
    message = _message("a")
    cache.put(message)
    assert [cache.ask(message.id, "p", 3) for _ in range(5)] == [message] * 3 + [None] * 2
    assert cache.ask(message.id, "q", 3) == message
    assert cache.ask(b"unknown", "q", 3) is None


def test_messages_are_bounded_and_the_oldest_goes() -> None:
    cache = MessageCache(5, 3, 2)
    for name in "abc":
        cache.put(_message(name))
    assert len(cache) == 2
    assert cache.gossip_ids("t") == [_message("b").id, _message("c").id]


def test_a_message_put_twice_is_told_once() -> None:
    cache = MessageCache(5, 3, 2)
    cache.put(_message("a"))
    cache.put(_message("a"))
    assert cache.gossip_ids("t") == [_message("a").id]
