"""Varints and frames."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.protobuf import MAX_FIELDS, FrameReader, WireError, encode_bytes, encode_varint, read_fields


@given(st.lists(st.binary(max_size=300), max_size=6), st.integers(1, 50))
def test_frames_survive_any_cut(frames: list[bytes], step: int) -> None:
    raw = b"".join(encode_varint(len(frame)) + frame for frame in frames)
    reader = FrameReader(300)
    assert [f for i in range(0, len(raw), step) for f in reader.feed(raw[i : i + step])] == frames


@pytest.mark.parametrize("raw", [encode_varint(101), encode_varint(2**34), b"\x80" * 5, b"\xff" * 50])
def test_too_long_a_frame_is_refused_before_it_comes(raw: bytes) -> None:
    with pytest.raises(WireError, match="frame"):
        list(FrameReader(100).feed(raw))


@given(st.integers(0, 2**64 - 1))
def test_varints_return(value: int) -> None:
    assert list(read_fields(b"\x20" + encode_varint(value))) == [(0x20, value, b"")]


def test_the_fields_of_a_message_have_an_end() -> None:
    assert sum(1 for _ in read_fields(encode_bytes(0x0A, b"") * MAX_FIELDS)) == MAX_FIELDS
    with pytest.raises(WireError, match="more than"):
        list(read_fields(encode_bytes(0x0A, b"") * (MAX_FIELDS + 1)))
