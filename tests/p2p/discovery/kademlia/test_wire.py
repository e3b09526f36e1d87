"""Messages of Kademlia, with py-libp2p's protobuf classes as the judge in both directions."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from libp2p.kad_dht.pb.kademlia_pb2 import Message as StockMessage
from multiaddr import Multiaddr as StockAddress

from p2p import base58
from p2p.discovery.kademlia.contact import MAX_ADDRESSES, Contact
from p2p.discovery.kademlia.wire import (
    MAX_ANSWER_BYTES,
    MAX_CONTACTS,
    MAX_KEY_BYTES,
    Kind,
    Message,
    decode_message,
    encode_message,
)
from p2p.entropy import SeededEntropy
from p2p.identity import PrivateKey
from p2p.identity.peer_id import peer_id_bytes
from p2p.protobuf import FrameReader, WireError

PEERS = [peer_id_bytes(PrivateKey.generate(SeededEntropy(seed)).public_key) for seed in range(3)]


def contact(number: int, *addresses: str) -> Contact:
    peer_id = PEERS[number]
    return Contact.of(peer_id, [f"{a}/p2p/{base58.encode(peer_id)}" for a in addresses])


CONTACTS = (
    contact(0, "/ip4/192.0.2.1/tcp/4001", "/dns4/node.example/tcp/4001"),
    contact(1),
    contact(2, "/ip6/2001:db8::1/tcp/1"),
)


def body_of(message: Message) -> bytes:
    (body,) = FrameReader(MAX_ANSWER_BYTES).feed(encode_message(message))
    return body


def stock(message: Message) -> Any:
    read = StockMessage()
    read.ParseFromString(body_of(message))
    return read


messages = st.builds(
    Message,
    st.sampled_from(Kind),
    st.binary(max_size=MAX_KEY_BYTES),
    st.none() | st.binary(max_size=300),
    st.lists(st.sampled_from(CONTACTS), max_size=MAX_CONTACTS).map(tuple),
)


@given(messages)
def test_messages_survive_the_wire(message: Message) -> None:
    assert decode_message(body_of(message)) == message


@given(messages)
def test_py_libp2p_reads_what_we_write(message: Message) -> None:
    read = stock(message)
    assert read.type == message.kind
    assert read.key == message.key
    assert read.HasField("record") == (message.record is not None)
    if message.record is not None:
        assert (read.record.key, read.record.value) == (message.key, message.record)
    assert [p.id for p in read.closerPeers] == [c.peer_id for c in message.closer]
    for peer, ours in zip(read.closerPeers, message.closer, strict=True):
        assert [f"{StockAddress(a)}/p2p/{base58.encode(peer.id)}" for a in peer.addrs] == list(ours.addresses)


def test_we_read_what_py_libp2p_writes() -> None:
    written = StockMessage(type=StockMessage.GET_VALUE, key=b"key", senderRecord=b"ignored")
    written.record.key, written.record.value = b"key", b"value"
    written.record.timeReceived = "2026-01-01T00:00:00Z"
    for ours in CONTACTS:
        peer = written.closerPeers.add(
            id=ours.peer_id, connection=StockMessage.CONNECTED, signedRecord=b"ignored"
        )
        peer.addrs.extend(StockAddress(a).decapsulate("/p2p").to_bytes() for a in ours.addresses)
    assert decode_message(written.SerializeToString()) == Message(Kind.GET_VALUE, b"key", b"value", CONTACTS)


def test_addresses_may_name_the_peer_itself_and_no_other() -> None:
    written = StockMessage(type=StockMessage.FIND_NODE)
    own, foreign = (
        StockAddress(f"/ip4/192.0.2.1/tcp/4001/p2p/{base58.encode(p)}").to_bytes() for p in PEERS[:2]
    )
    written.closerPeers.add(id=PEERS[0], addrs=[own, foreign, b"\xff\xff", b""])
    assert decode_message(written.SerializeToString()).closer == (contact(0, "/ip4/192.0.2.1/tcp/4001"),)


def test_what_is_generous_is_cut() -> None:
    written = StockMessage(type=StockMessage.FIND_NODE)
    addresses = [StockAddress(f"/ip4/192.0.2.{n}/tcp/4001").to_bytes() for n in range(100)]
    for _ in range(MAX_CONTACTS + 5):
        written.closerPeers.add(id=PEERS[0], addrs=addresses)
    read = decode_message(written.SerializeToString())
    assert len(read.closer) == MAX_CONTACTS
    assert len(read.closer[0].addresses) == MAX_ADDRESSES


@pytest.mark.parametrize(
    "message",
    [
        StockMessage(type=StockMessage.FIND_NODE, key=bytes(MAX_KEY_BYTES + 1)),
        StockMessage(type=StockMessage.FIND_NODE, closerPeers=[StockMessage.Peer(id=b"")]),
        StockMessage(type=StockMessage.FIND_NODE, closerPeers=[StockMessage.Peer(id=bytes(65))]),
        StockMessage(type=StockMessage.PUT_VALUE, key=b"one", record={"key": b"two", "value": b"x"}),
    ],
)
def test_what_breaks_a_bound_is_refused(message: Any) -> None:
    with pytest.raises(WireError):
        decode_message(message.SerializeToString())


@given(st.binary(max_size=200))
def test_noise_is_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(WireError):
        decode_message(data)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(WireError):
        decode_message(b"\x08\x06")
