"""What may be in the directory, and what may not."""

from __future__ import annotations

import pytest

from p2p import base58, multiaddr
from p2p.discovery.records import MAX_AGE_NS, MAX_AHEAD_NS, RecordRefused, RecordRules
from p2p.entropy import SeededEntropy
from p2p.host.addresses import is_acceptable
from p2p.identity import PrivateKey
from p2p.identity.peer_id import peer_id_bytes
from p2p.identity.records import sign_peer_record

KEY, OTHER = (PrivateKey.generate(SeededEntropy(seed)) for seed in range(2))
NOW = 1_800_000_000 * 10**9
PEER_ID = base58.encode(peer_id_bytes(KEY.public_key))
PUBLIC = f"/ip4/8.8.8.8/tcp/4001/p2p/{PEER_ID}"
PRIVATE = f"/ip4/10.0.0.1/tcp/4001/p2p/{PEER_ID}"
RULES = RecordRules("main", lambda address: is_acceptable(address, allow_private=False))


def raw(*addresses: str, key: PrivateKey = KEY, seq: int = NOW) -> bytes:
    return sign_peer_record(key, seq, [multiaddr.parse(text) for text in addresses])


def test_a_record_goes_through_the_rules_as_it_was_signed() -> None:
    value = RULES.sign(KEY, NOW, [PRIVATE, PUBLIC])
    assert value is not None
    record = RULES.judge(RULES.key(KEY.node_id), value, NOW)
    assert (record.node_id, record.seq, record.addresses, record.value) == (
        KEY.node_id,
        NOW,
        (PUBLIC,),
        value,
    )
    assert RULES.owner(RULES.key(KEY.node_id)) == KEY.node_id


def test_a_node_that_nobody_can_dial_has_no_record() -> None:
    assert RULES.sign(KEY, NOW, [PRIVATE]) is None


def test_addresses_that_may_not_be_dialled_are_left_out_and_the_peer_is_named() -> None:
    value = raw(
        "/ip4/8.8.8.8/tcp/4001",
        "/ip4/8.8.8.8/udp/4001/quic-v1",
        PRIVATE,
        PUBLIC.replace("8.8.8.8", "9.9.9.9"),
    )
    assert RULES.judge(RULES.key(KEY.node_id), value, NOW).addresses == (
        PUBLIC,
        PUBLIC.replace("8.8.8.8", "9.9.9.9"),
    )


FOREIGN = f"/ip4/8.8.8.8/tcp/4001/p2p/{base58.encode(peer_id_bytes(OTHER.public_key))}"


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        (RULES.key(OTHER.node_id), raw(PUBLIC), "is not one of"),
        (RULES.key(KEY.node_id), raw(PUBLIC, key=OTHER), "is not one of"),
        (RULES.key(KEY.node_id), raw(PRIVATE), "no address"),
        (RULES.key(KEY.node_id), raw(FOREIGN), "no address"),
        (RULES.key(KEY.node_id), raw(), "no address"),
        (RULES.key(KEY.node_id), raw(PUBLIC, seq=NOW - MAX_AGE_NS - 1), "older than"),
        (RULES.key(KEY.node_id), raw(PUBLIC, seq=NOW + MAX_AHEAD_NS + 1), "future"),
        (RULES.key(KEY.node_id), raw(PUBLIC)[:-1], "not a peer record"),
        (RULES.key(KEY.node_id), b"", "not a peer record"),
        (RecordRules("test", lambda _: True).key(KEY.node_id), raw(PUBLIC), "namespace"),
        (RULES.key(KEY.node_id)[:-1], raw(PUBLIC), "namespace"),
        (RULES.key(KEY.node_id) + b"x", raw(PUBLIC), "namespace"),
        (b"/pk/" + peer_id_bytes(KEY.public_key), raw(PUBLIC), "namespace"),
        (b"", raw(PUBLIC), "namespace"),
    ],
)
def test_whatever_else_is_refused(key: bytes, value: bytes, reason: str) -> None:
    with pytest.raises(RecordRefused, match=reason):
        RULES.judge(key, value, NOW)
