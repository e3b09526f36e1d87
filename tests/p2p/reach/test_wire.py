"""The wire of relay v2, DCUtR, AutoNAT v2 and identify, with protobuf's own messages as the oracle."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from libp2p.crypto.secp256k1 import create_new_key_pair
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.peer.envelope import consume_envelope, seal_record
from libp2p.peer.id import ID
from libp2p.peer.peer_record import PeerRecord

from p2p import base58
from p2p.multiaddr import decode as decode_address
from p2p.multiaddr import multihash_of, parse
from p2p.protobuf import WireError
from p2p.reach import autonat_wire, identify_wire, punch_wire, relay_wire
from p2p.reach.autonat_wire import Answer, DialData, DialDataRequest, Dialled, DialRequest, DialResponse
from p2p.reach.envelope import InvalidEnvelope, seal, unseal
from p2p.reach.punch_wire import HolePunch
from p2p.reach.relay_wire import HopMessage, Kind, Limit, Reservation, Status, StopMessage, Voucher
from p2p.session import Ed25519Identity, Secp256k1Identity
from tests.p2p.reach.oracle import Autonat, Circuit, Dcutr

if TYPE_CHECKING:
    from collections.abc import Callable

RELAY, TARGET = Secp256k1Identity(b"\1" * 32), Ed25519Identity(b"\2" * 32)
RELAY_ID, TARGET_ID = RELAY.public.peer_id, TARGET.public.peer_id
HERE = f"/ip4/192.0.2.1/tcp/4001/p2p/{RELAY_ID}"

peers = st.sampled_from([RELAY_ID, TARGET_ID])
numbers = st.integers(0, 2**32 - 1)
limits = st.none() | st.builds(Limit, numbers, st.integers(0, 2**64 - 1))
places = st.lists(
    st.builds("/ip4/{}/tcp/{}".format, st.ip_addresses(v=4), st.integers(0, 65535)), max_size=8
).map(tuple)
statuses = st.sampled_from(Status)
reservations = st.none() | st.builds(Reservation, st.integers(0, 2**40), places, st.binary(max_size=200))


def _fill(out: Any, peer: str | None, limit: Limit | None, status: Status) -> Any:
    if peer is not None:
        out.peer.id = multihash_of(peer)
    if limit is not None:
        out.limit.SetInParent()
        if limit.duration:
            out.limit.duration = limit.duration
        if limit.data:
            out.limit.data = limit.data
    if status:
        out.status = status
    return out


def _hop(message: HopMessage) -> Any:
    out = Circuit.HopMessage(type={"reserve": 0, "connect": 1, "status": 2}[message.kind.value])
    if message.reservation is not None:
        out.reservation.expire = message.reservation.expire
        out.reservation.addrs.extend(parse(a).encode() for a in message.reservation.addresses)
        if message.reservation.voucher:
            out.reservation.voucher = message.reservation.voucher
    return _fill(out, message.peer, message.limit, message.status)


@given(st.builds(HopMessage, st.sampled_from(Kind), st.none() | peers, reservations, limits, statuses))
def test_hop_is_written_and_read_as_by_others(message: HopMessage) -> None:
    theirs = _hop(message)
    ours = relay_wire.encode_hop(message)
    read = Circuit.HopMessage.FromString(ours)
    assert read.SerializeToString(deterministic=True) == theirs.SerializeToString(deterministic=True)
    assert relay_wire.decode_hop(theirs.SerializeToString()) == message


@given(
    st.builds(StopMessage, st.sampled_from([Kind.CONNECT, Kind.STATUS]), st.none() | peers, limits, statuses)
)
def test_stop_is_written_and_read_as_by_others(message: StopMessage) -> None:
    theirs = _fill(
        Circuit.StopMessage(type=0 if message.kind is Kind.CONNECT else 1),
        message.peer,
        message.limit,
        message.status,
    )
    read = Circuit.StopMessage.FromString(relay_wire.encode_stop(message))
    assert read.SerializeToString(deterministic=True) == theirs.SerializeToString(deterministic=True)
    assert relay_wire.decode_stop(theirs.SerializeToString()) == message


@given(st.sampled_from(["connect", "sync"]), places)
def test_dcutr_is_written_and_read_as_by_others(kind: Any, addresses: tuple[str, ...]) -> None:
    theirs = Dcutr.HolePunch(
        type=100 if kind == "connect" else 300, ObsAddrs=[parse(a).encode() for a in addresses]
    )
    message = HolePunch(kind, addresses)
    assert punch_wire.encode(message) == theirs.SerializeToString()
    assert punch_wire.decode(theirs.SerializeToString()) == message


_NONCES = st.integers(0, 2**64 - 1)


@given(places, _NONCES)
def test_dial_requests_are_written_and_read_as_by_others(addresses: tuple[str, ...], nonce: int) -> None:
    theirs = Autonat.Message()
    theirs.dialRequest.SetInParent()
    theirs.dialRequest.addrs.extend(parse(a).encode() for a in addresses)
    theirs.dialRequest.nonce = nonce
    message = DialRequest(addresses, nonce)
    assert Autonat.Message.FromString(autonat_wire.encode(message)) == theirs
    assert autonat_wire.decode(theirs.SerializeToString()) == message


@given(st.sampled_from(Answer), st.integers(0, 49), st.sampled_from(Dialled))
def test_dial_responses_are_written_and_read_as_by_others(
    answer: Answer, index: int, dialled: Dialled
) -> None:
    theirs = Autonat.Message()
    theirs.dialResponse.SetInParent()
    theirs.dialResponse.status, theirs.dialResponse.addrIdx = answer, index
    theirs.dialResponse.dialStatus = dialled
    message = DialResponse(answer, index, dialled)
    assert Autonat.Message.FromString(autonat_wire.encode(message)) == theirs
    assert autonat_wire.decode(theirs.SerializeToString()) == message


@given(st.integers(0, 49), st.integers(0, 10**6), st.binary(max_size=300))
def test_dial_data_is_written_and_read_as_by_others(index: int, count: int, data: bytes) -> None:
    theirs = Autonat.Message()
    theirs.dialDataRequest.addrIdx, theirs.dialDataRequest.numBytes = index, count
    theirs.dialDataRequest.SetInParent()
    assert Autonat.Message.FromString(autonat_wire.encode(DialDataRequest(index, count))) == theirs
    assert autonat_wire.decode(theirs.SerializeToString()) == DialDataRequest(index, count)
    theirs = Autonat.Message()
    theirs.dialDataResponse.data = data
    theirs.dialDataResponse.SetInParent()
    assert Autonat.Message.FromString(autonat_wire.encode(DialData(data))) == theirs
    assert autonat_wire.decode(theirs.SerializeToString()) == DialData(data)


@given(_NONCES)
def test_dial_back_is_written_and_read_as_by_others(nonce: int) -> None:
    theirs = Autonat.DialBack(nonce=nonce)
    assert Autonat.DialBack.FromString(autonat_wire.encode_dial_back(nonce)) == theirs
    assert autonat_wire.decode_dial_back(theirs.SerializeToString()) == nonce
    assert Autonat.DialBackResponse.FromString(autonat_wire.DIAL_BACK_TAKEN) == Autonat.DialBackResponse()


def test_an_address_that_is_not_known_keeps_its_place() -> None:
    theirs = Autonat.Message()
    theirs.dialRequest.addrs.extend([b"\xff\xff\x01", parse("/ip4/1.2.3.4/tcp/5").encode()])
    message = autonat_wire.decode(theirs.SerializeToString())
    assert message == DialRequest((None, "/ip4/1.2.3.4/tcp/5"), 0)


@given(places, st.lists(st.text(max_size=40), max_size=5))
def test_identify_is_read_as_others_write_it(addresses: tuple[str, ...], protocols: list[str]) -> None:
    theirs = Identify(
        observed_addr=parse("/ip4/203.0.113.9/tcp/77").encode(),
        listen_addrs=[parse(a).encode() for a in addresses],
        protocols=protocols,
        agent_version="x",
        public_key=b"k",
    )
    read = identify_wire.decode(theirs.SerializeToString())
    assert read.observed == "/ip4/203.0.113.9/tcp/77"
    assert read.listening == addresses
    assert read.protocols == frozenset(protocols)
    assert read.agent == "x"


def test_a_voucher_is_one_that_others_take() -> None:
    data = relay_wire.sign_voucher(Voucher(RELAY_ID, TARGET_ID, 1_700_000_000), RELAY)
    assert relay_wire.read_voucher(data) == Voucher(RELAY_ID, TARGET_ID, 1_700_000_000)
    _, payload = unseal("libp2p-relay-rsvp", b"\x03\x02", data)
    theirs = Circuit.Voucher.FromString(payload)
    assert (theirs.relay, theirs.peer, theirs.expiration) == (
        multihash_of(RELAY_ID),
        multihash_of(TARGET_ID),
        1_700_000_000,
    )


def test_a_voucher_of_another_than_its_relay_is_refused() -> None:
    with pytest.raises(WireError, match="another than the relay"):
        relay_wire.read_voucher(relay_wire.sign_voucher(Voucher(RELAY_ID, TARGET_ID, 1), TARGET))


def test_an_envelope_is_one_that_others_take_and_the_other_way_round() -> None:
    pair = create_new_key_pair(b"\1" * 32)
    record = PeerRecord(ID.from_pubkey(pair.public_key), [])
    theirs = seal_record(record, pair.private_key)
    signer, payload = unseal("libp2p-peer-record", b"\x03\x01", theirs.marshal_envelope())
    assert signer == RELAY.public
    ours = seal("libp2p-peer-record", b"\x03\x01", payload, RELAY)
    envelope, again = consume_envelope(ours, "libp2p-peer-record")
    assert again.peer_id == record.peer_id
    assert ID.from_pubkey(envelope.public_key).to_base58() == RELAY_ID


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda data: data[:40],
        lambda data: data + b"\x12\x02\x03\x03",
        lambda data: data + b"\x1a\x01x",
        lambda data: b"\x00" + data,
        lambda data: data + bytes(9000),
        lambda data: b"",
    ],
)
def test_a_spoilt_envelope_is_refused(spoil: Callable[[bytes], bytes]) -> None:
    with pytest.raises(InvalidEnvelope):
        unseal("d", b"\x03\x02", spoil(seal("d", b"\x03\x02", b"payload", RELAY)))


def test_an_envelope_for_another_purpose_is_refused() -> None:
    with pytest.raises(InvalidEnvelope, match="another purpose"):
        unseal("e", b"\x03\x02", seal("d", b"\x03\x02", b"payload", RELAY))


READERS: list[Callable[[bytes], object]] = [
    relay_wire.decode_hop,
    relay_wire.decode_stop,
    relay_wire.read_voucher,
    punch_wire.decode,
    autonat_wire.decode,
    autonat_wire.decode_dial_back,
    identify_wire.decode,
]


@pytest.mark.parametrize("read", READERS)
@given(data=st.binary(max_size=300))
def test_garbage_is_an_error_of_the_wire_and_no_other(read: Callable[[bytes], object], data: bytes) -> None:
    with contextlib.suppress(WireError):
        read(data)


_VALID = [
    relay_wire.encode_hop(
        HopMessage(Kind.STATUS, RELAY_ID, Reservation(9, (HERE,), b"v" * 20), Limit(120, 2**17), Status.OK)
    ),
    relay_wire.sign_voucher(Voucher(RELAY_ID, TARGET_ID, 5), RELAY),
    punch_wire.encode(HolePunch("connect", (HERE,))),
    autonat_wire.encode(DialRequest((HERE,), 77)),
]


@pytest.mark.parametrize("read", READERS)
@given(valid=st.sampled_from(_VALID), at=st.integers(0, 400), byte=st.integers(0, 255))
def test_spoilt_messages_are_errors_of_the_wire_and_no_other(
    read: Callable[[bytes], object], valid: bytes, at: int, byte: int
) -> None:
    data = bytearray(valid)
    data[at % len(data)] = byte
    with contextlib.suppress(WireError):
        read(bytes(data))


@pytest.mark.parametrize(
    ("read", "limit"),
    [
        (relay_wire.decode_hop, relay_wire.MAX_MESSAGE_BYTES),
        (relay_wire.decode_stop, relay_wire.MAX_MESSAGE_BYTES),
        (punch_wire.decode, punch_wire.MAX_MESSAGE_BYTES),
        (autonat_wire.decode, autonat_wire.MAX_MESSAGE_BYTES),
        (identify_wire.decode, identify_wire.MAX_MESSAGE_BYTES),
    ],
)
def test_messages_are_bounded(read: Callable[[bytes], object], limit: int) -> None:
    with pytest.raises(WireError, match="over the limit"):
        read(bytes(limit + 1))


def test_a_peer_that_is_none_is_refused() -> None:
    data = Circuit.HopMessage(type=1)
    data.peer.id = b"\x99\x99"
    with pytest.raises(WireError, match="a peer that is none"):
        relay_wire.decode_hop(data.SerializeToString())


def test_the_addresses_of_a_reservation_are_bounded_and_unknown_ones_left_out() -> None:
    data = Circuit.HopMessage(type=2, status=100)
    data.reservation.expire = 1
    data.reservation.addrs.extend([b"\xff\xff\x7f", parse(HERE).encode(), *[parse(HERE).encode()] * 30])
    read = relay_wire.decode_hop(data.SerializeToString()).reservation
    assert read is not None
    assert set(read.addresses) == {HERE}
    assert len(read.addresses) == relay_wire.MAX_ADDRESSES - 1
    assert str(decode_address(parse(read.addresses[0]).encode())) == HERE
    assert base58.decode(RELAY_ID)
