"""Signed peer records, with py-libp2p's envelopes as the judge in both directions."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from libp2p.crypto.ed25519 import create_new_key_pair as new_ed25519
from libp2p.crypto.secp256k1 import Secp256k1PrivateKey
from libp2p.peer.envelope import consume_envelope, seal_record, unmarshal_envelope
from libp2p.peer.id import ID
from libp2p.peer.peer_record import PeerRecord as StockRecord
from multiaddr import Multiaddr as StockAddress

from p2p import multiaddr
from p2p.entropy import SeededEntropy
from p2p.identity import PrivateKey
from p2p.identity.peer_id import peer_id_bytes
from p2p.identity.records import (
    MAX_ADDRESSES,
    MAX_RECORD_BYTES,
    InvalidRecord,
    sign_peer_record,
    verify_peer_record,
)
from p2p.protobuf import encode_bytes

KEY, OTHER = (PrivateKey.generate(SeededEntropy(seed)) for seed in range(2))
ED25519 = new_ed25519().private_key
ADDRESSES = ("/ip4/192.0.2.1/tcp/4001", "/ip6/2001:db8::1/tcp/4001", "/dns4/node.example/tcp/4001")
PARSED = tuple(multiaddr.parse(text) for text in ADDRESSES)


def stock_key(key: PrivateKey) -> Secp256k1PrivateKey:
    return Secp256k1PrivateKey.from_bytes(key.secret)


def stock_envelope(signer: Any, subject: Any, seq: int = 7, addresses: tuple[str, ...] = ADDRESSES) -> bytes:
    peer_id = ID.from_pubkey(subject.get_public_key())
    record = StockRecord(peer_id, [StockAddress(text) for text in addresses], seq)
    return seal_record(record, signer).marshal_envelope()


@settings(max_examples=20)
@given(st.integers(0, 2**64 - 1), st.lists(st.sampled_from(PARSED), max_size=MAX_ADDRESSES))
def test_py_libp2p_reads_what_we_sign(seq: int, addresses: list[multiaddr.Multiaddr]) -> None:
    envelope, record = consume_envelope(sign_peer_record(KEY, seq, addresses), "libp2p-peer-record")
    assert envelope.public_key == stock_key(KEY).get_public_key()
    assert record.peer_id.to_bytes() == peer_id_bytes(KEY.public_key)
    assert record.seq == seq
    assert [str(a) for a in record.addrs] == [str(a) for a in addresses]


def test_we_read_what_py_libp2p_signs() -> None:
    record = verify_peer_record(stock_envelope(stock_key(KEY), stock_key(KEY)))
    assert record.node_id == KEY.node_id
    assert record.peer_id == peer_id_bytes(KEY.public_key)
    assert record.seq == 7
    assert record.addresses == PARSED


def test_both_sign_the_same_bytes() -> None:
    ours = unmarshal_envelope(sign_peer_record(KEY, 7, PARSED))
    assert ours.raw_payload == unmarshal_envelope(stock_envelope(stock_key(KEY), stock_key(KEY))).raw_payload


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (stock_envelope(stock_key(OTHER), stock_key(KEY)), "of another peer"),
        (stock_envelope(ED25519, ED25519), "not secp256k1"),
        (stock_envelope(stock_key(KEY), ED25519), "not secp256k1"),
        (stock_envelope(stock_key(KEY), stock_key(KEY), addresses=ADDRESSES * 3), "too often"),
        (stock_envelope(stock_key(KEY), stock_key(KEY)) * 2, "twice"),
        (stock_envelope(stock_key(KEY), stock_key(KEY)) + encode_bytes(6 << 3 | 2, b"x"), "should not have"),
        (bytes(MAX_RECORD_BYTES + 1), "are allowed"),
        (b"", "not a peer record"),
        (b"\xff", "not a peer record"),
        (encode_bytes(1 << 3 | 2, b""), "not a peer record"),
    ],
)
def test_what_is_no_record_of_its_signer_is_refused(record: bytes, reason: str) -> None:
    with pytest.raises(InvalidRecord, match=reason):
        verify_peer_record(record)


@given(st.data())
def test_no_changed_byte_passes(data: st.DataObject) -> None:
    record = bytearray(sign_peer_record(KEY, 7, PARSED))
    at = data.draw(st.integers(0, len(record) - 1))
    record[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(InvalidRecord):
        verify_peer_record(bytes(record))


@given(st.binary(max_size=200))
def test_noise_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidRecord):
        verify_peer_record(data)
