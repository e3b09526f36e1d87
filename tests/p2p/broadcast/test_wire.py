"""The RPC codec against libp2p's generated one, and against hostile bytes."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from p2p.broadcast import wire
from p2p.protobuf import WireError, encode_bytes
from tests.p2p.broadcast.oracle import from_libp2p, rpc_pb2, rpcs, to_libp2p


@given(rpcs)
def test_bytes_are_those_of_libp2p(rpc: wire.Rpc) -> None:
    assert wire.encode_rpc(rpc) == to_libp2p(rpc).SerializeToString()


@given(rpcs)
def test_decodes_what_libp2p_encodes(rpc: wire.Rpc) -> None:
    assert wire.decode_rpc(to_libp2p(rpc).SerializeToString()) == rpc


@given(rpcs, st.data())
def test_what_is_decoded_from_damaged_bytes_is_what_libp2p_reads(rpc: wire.Rpc, data: st.DataObject) -> None:
    raw = bytearray(wire.encode_rpc(rpc))
    for _ in range(data.draw(st.integers(1, 3))):
        if raw:
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    _compare(bytes(raw))


@given(st.binary(max_size=200))
def test_what_is_decoded_from_noise_is_what_libp2p_reads(raw: bytes) -> None:
    _compare(raw)


def _compare(raw: bytes) -> None:
    """We may refuse what libp2p takes, and skip what it knows besides, but never read the same differently."""
    try:
        ours = wire.decode_rpc(raw)
    except WireError:
        return
    theirs = rpc_pb2.RPC()
    try:
        theirs.ParseFromString(raw)
    except DecodeError:
        return  # they look into fields that we skip (extensions), and refuse what is wrong in those
    assert ours == from_libp2p(theirs)


def test_fields_of_later_versions_are_skipped() -> None:
    rpc = to_libp2p(wire.Rpc(graft=("t",)))
    rpc.senderRecord = b"record"
    rpc.control.observe.add(topicID="t")
    rpc.testExtension.SetInParent()
    assert wire.decode_rpc(rpc.SerializeToString()) == wire.Rpc(graft=("t",))


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"\x0a\x05ab", id="length beyond the end"),
        pytest.param(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", id="length of 2^64 - 1"),
        pytest.param(b"\x0a" + b"\xff" * 11, id="varint without an end"),
        pytest.param(b"\x20" + b"\xff" * 9 + b"\x02", id="varint above 64 bits"),
        pytest.param(b"\x00\x00", id="field number zero"),
        pytest.param(b"\x0b\x0c", id="groups"),
        pytest.param(b"\x21abc", id="cut fixed64"),
        pytest.param(b"\x1a\x00\x1a\x00", id="two controls"),
        pytest.param(b"\x12\x04\x0a\x00\x0a\x00", id="two authors, both empty"),
        pytest.param(b"\x0a\x04\x12\x02\xff\xfe", id="topic is not UTF-8"),
    ],
)
def test_refuses(raw: bytes) -> None:
    with pytest.raises(WireError):
        wire.decode_rpc(raw)


@pytest.mark.parametrize(
    ("rpc", "more"),
    [
        (wire.Rpc(subscriptions=(wire.Subscription("t", True),) * wire.MAX_CONTROLS), "\x0a\x02\x08\x01"),
        (wire.Rpc(publish=(wire.Message(b"a", b"d", b"s", "t"),) * wire.MAX_MESSAGES), "\x12\x00"),
    ],
)
def test_counts_are_bounded(rpc: wire.Rpc, more: str) -> None:
    raw = wire.encode_rpc(rpc)
    assert wire.decode_rpc(raw) == rpc
    with pytest.raises(WireError, match="more"):
        wire.decode_rpc(raw + more.encode())


def test_ids_and_controls_are_bounded_over_all_kinds() -> None:
    ids = tuple(bytes((n >> 8, n & 255)) for n in range(wire.MAX_IDS))
    half = wire.MAX_IDS // 2
    assert (
        wire.decode_rpc(wire.encode_rpc(wire.Rpc(iwant=ids[:half], idontwant=ids[half:]))).iwant == ids[:half]
    )
    with pytest.raises(WireError, match="message ids"):
        wire.decode_rpc(wire.encode_rpc(wire.Rpc(iwant=ids, idontwant=(b"x",))))
    with pytest.raises(WireError, match="message ids"):
        wire.decode_rpc(wire.encode_rpc(wire.Rpc(ihave=(wire.IHave("t", ids), wire.IHave("t", (b"x",))))))
    with pytest.raises(WireError, match="control entries"):
        wire.decode_rpc(wire.encode_rpc(wire.Rpc(graft=("t",) * (wire.MAX_CONTROLS + 1))))


@pytest.mark.parametrize(
    "rpc",
    [
        wire.Rpc(graft=("t" * 257,)),
        wire.Rpc(iwant=(b"i" * 257,)),
        wire.Rpc(publish=(wire.Message(b"a" * 1025, b"d", b"s", "t"),)),
        wire.Rpc(publish=(wire.Message(b"a", b"d", b"s", "t", b"s" * 1025),)),
        wire.Rpc(prune=(wire.Prune("t", 1, (wire.PeerRecord(b"p"),) * 65),)),
    ],
)
def test_sizes_are_bounded(rpc: wire.Rpc) -> None:
    with pytest.raises(WireError):
        wire.decode_rpc(wire.encode_rpc(rpc))


def test_does_not_send_what_no_peer_would_read() -> None:
    message = wire.Message(b"a", b"d" * 8192, b"s", "t")
    with pytest.raises(ValueError, match="send it in parts"):
        wire.encode_frame(wire.Rpc(publish=(message,) * 32))


def test_only_gossip_may_be_lost() -> None:
    assert wire.Rpc(iwant=(b"i",), idontwant=(b"j",), ihave=(wire.IHave("t", (b"k",)),)).is_gossip
    assert not wire.Rpc(iwant=(b"i",), graft=("t",)).is_gossip
    assert not wire.Rpc(prune=(wire.Prune("t"),)).is_gossip


UNKNOWN = b"\xfa\x01\x00"


@pytest.mark.parametrize(
    "raw",
    [
        UNKNOWN * 20_000,
        encode_bytes(0x12, UNKNOWN * 80) * 1000,
        encode_bytes(0x0A, UNKNOWN * 80) * 200,
        *(encode_bytes(0x1A, encode_bytes(tag, UNKNOWN * 300) * 200) for tag in (0x0A, 0x12, 0x22, 0x2A)),
        encode_bytes(0x1A, encode_bytes(0x22, encode_bytes(0x12, UNKNOWN * 80) * 10)),
    ],
)
def test_what_nobody_knows_may_not_be_most_of_it(raw: bytes) -> None:
    assert len(raw) < wire.MAX_FRAME_BYTES
    with pytest.raises(WireError, match="fields"):
        wire.decode_rpc(raw)
