"""Records kept for others, and what is answered of them."""

from __future__ import annotations

import pytest

from p2p import multiaddr
from p2p.discovery.kademlia.contact import Contact, key_of
from p2p.discovery.kademlia.params import KademliaParams
from p2p.discovery.kademlia.serving import MAX_PEERS_COUNTED, Answerer, InboundLimits
from p2p.discovery.kademlia.store import RecordStore
from p2p.discovery.kademlia.table import RoutingTable
from p2p.discovery.kademlia.wire import Kind, Message
from p2p.discovery.records import MAX_AGE_NS, RecordRefused, RecordRules
from p2p.entropy import SeededEntropy
from p2p.identity import PrivateKey
from p2p.identity.peer_id import peer_id_bytes
from p2p.identity.records import sign_peer_record

ME = b"me"
NOW = 1_800_000_000 * 10**9
RULES = RecordRules("devnet", lambda _: True)
KEYS = [PrivateKey.generate(SeededEntropy(seed)) for seed in range(12)]


def record(key: PrivateKey, seq: int = NOW) -> tuple[bytes, bytes]:
    return RULES.key(key.node_id), sign_peer_record(key, seq, [multiaddr.parse("/ip4/8.8.8.8/tcp/4001")])


def test_the_highest_number_wins_whatever_comes_first() -> None:
    store = RecordStore(ME, RULES, 10)
    key, old = record(KEYS[0], NOW - 1)
    _, new = record(KEYS[0], NOW)
    assert store.put(key, old, NOW)
    assert store.put(key, new, NOW)
    assert store.put(key, new, NOW), "the same again is kept, not refused"
    assert not store.put(key, old, NOW)
    assert store.get(key, NOW) == new


def test_only_good_records_are_taken() -> None:
    store = RecordStore(ME, RULES, 10)
    key, value = record(KEYS[0])
    for wrong_key, wrong_value in ((b"/pk/x", value), (RULES.key(KEYS[1].node_id), value), (key, value[:-1])):
        with pytest.raises(RecordRefused):
            store.put(wrong_key, wrong_value, NOW)
    assert len(store) == 0


def test_records_expire_by_the_time_of_their_signing() -> None:
    store = RecordStore(ME, RULES, 10)
    key, value = record(KEYS[0], NOW)
    store.put(key, value, NOW + MAX_AGE_NS)
    assert store.get(key, NOW + MAX_AGE_NS) == value
    assert store.get(key, NOW + MAX_AGE_NS + 1) is None
    assert len(store) == 0
    store.put(key, value, NOW)
    store.expire(NOW + MAX_AGE_NS + 1)
    assert len(store) == 0


def test_when_full_the_farthest_gives_way() -> None:
    store = RecordStore(ME, RULES, 5)
    kept = [store.put(*record(key), NOW) for key in KEYS]
    nearest = sorted((record(key)[0] for key in KEYS), key=lambda key: key_of(key) ^ key_of(ME))
    assert len(store) == 5
    assert [store.get(key, NOW) is not None for key in nearest] == [True] * 5 + [False] * 7
    assert not all(kept)


# Answers.


def contact(key: PrivateKey, address: str = "/ip4/8.8.8.8/tcp/4001") -> Contact:
    return Contact.of(peer_id_bytes(key.public_key), [address])


def answerer(known: Contact | None = None) -> tuple[Answerer, RoutingTable, RecordStore]:
    params = KademliaParams(k=4)
    table, store = RoutingTable(ME, params, diverse=False), RecordStore(ME, RULES, 10)
    for key in KEYS[:8]:
        table.answered(0, contact(key))
    itself = Contact.of(ME, ["/ip4/9.9.9.9/tcp/1"])
    return Answerer(table, store, params, lambda: itself, lambda _: known), table, store


def test_the_nearest_are_told_but_not_the_asker() -> None:
    answers, table, _ = answerer()
    key, _ = record(KEYS[0])
    nearest = table.closest(key_of(key), 5)
    answer = answers.answer(nearest[0].names[0], Message(Kind.GET_VALUE, key), NOW)
    assert answer == Message(Kind.GET_VALUE, key, None, tuple(nearest[1:5]))
    stranger = answers.answer("0x", Message(Kind.FIND_NODE, key), NOW)
    assert stranger == Message(Kind.FIND_NODE, closer=tuple(nearest[:4]))


def test_who_is_looked_for_is_told_although_it_serves_nobody() -> None:
    sought = contact(KEYS[9])
    answers, *_ = answerer(known=sought)
    answer = answers.answer("0x", Message(Kind.FIND_NODE, sought.peer_id), NOW)
    assert answer is not None
    assert answer.closer[0] == sought
    assert len(answer.closer) == 4
    ours = answers.answer("0x", Message(Kind.FIND_NODE, ME), NOW)
    assert ours is not None
    assert ours.closer[0].peer_id == ME


def test_put_and_get() -> None:
    answers, _, store = answerer()
    key, value = record(KEYS[0])
    assert answers.answer("0x", Message(Kind.PUT_VALUE, key, value), NOW) == Message(
        Kind.PUT_VALUE, key, value
    )
    got = answers.answer("0x", Message(Kind.GET_VALUE, key), NOW)
    assert got is not None
    assert got.record == value
    _, old = record(KEYS[0], NOW - 5)
    answer = answers.answer("0x", Message(Kind.PUT_VALUE, key, old), NOW)
    assert answer is not None
    assert answer.record == value, "it is told that there is a newer one"
    for bad in (Message(Kind.PUT_VALUE, key), Message(Kind.PUT_VALUE, b"/x", value)):
        with pytest.raises(RecordRefused):
            answers.answer("0x", bad, NOW)
    assert len(store) == 1


def test_the_rest_of_the_protocol() -> None:
    answers, *_ = answerer()
    assert answers.answer("0x", Message(Kind.PING), NOW) == Message(Kind.PING)
    assert answers.answer("0x", Message(Kind.ADD_PROVIDER, b"cid"), NOW) is None
    providers = answers.answer("0x", Message(Kind.GET_PROVIDERS, b"cid"), NOW)
    assert providers is not None
    assert len(providers.closer) == 4


# Limits.


def test_streams_and_requests_of_one_peer_are_bounded() -> None:
    params = KademliaParams(max_inbound=6, max_inbound_per_peer=4, inbound_rate=10.0, inbound_burst=5)
    limits = InboundLimits(params)
    assert [limits.enter(0.0, "a") for _ in range(5)] == [True] * 4 + [False]
    assert [limits.enter(0.0, "b") for _ in range(3)] == [True, True, False]
    assert [limits.enter(0.0, "c") for _ in range(2)] == [True, False], "others keep nobody out"
    limits.leave("a")
    limits.leave("c")
    assert limits.enter(0.0, "c")
    assert [limits.allow(0.0, "a") for _ in range(6)] == [True] * 5 + [False]
    assert [limits.allow(0.2, "a") for _ in range(3)] == [True, True, False]
    assert limits.allow(0.0, "b"), "what one asks costs the others nothing"


def test_the_count_of_askers_is_bounded_and_those_served_are_kept() -> None:
    limits = InboundLimits(KademliaParams())
    assert limits.enter(0.0, "served")
    for number in range(2 * MAX_PEERS_COUNTED):
        assert limits.enter(0.0, f"{number}")
        limits.leave(f"{number}")
    assert len(limits._askers) <= MAX_PEERS_COUNTED + 1
    limits.leave("served")
