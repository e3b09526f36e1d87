"""The wire's encoding: one value, one encoding, and nothing else is taken."""

from __future__ import annotations

import cbor2
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p import codec


class Sample(msgspec.Struct, frozen=True):
    name: str
    amount: int = 0
    data: bytes = b""
    parts: tuple[str, ...] = ()


trees = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.text()
    | st.binary()
    | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)


@given(trees)
def test_trees_come_back_and_have_one_encoding(tree: object) -> None:
    data = codec.encode(tree)
    assert codec.decode_tree(data) == tree
    assert codec.encode(codec.decode_tree(data)) == data


@given(st.text(), st.integers(0, 2**63), st.binary(), st.lists(st.text(), max_size=4))
def test_structs_come_back(name: str, amount: int, data: bytes, parts: list[str]) -> None:
    sample = Sample(name, amount, data, tuple(parts))
    assert codec.decode(codec.encode(sample), Sample) == sample


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_refused(data: bytes) -> None:
    try:
        tree = codec.decode_tree(data)
    except codec.CodecError:
        return
    assert codec.encode(tree) == data


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("indefinite list", bytes.fromhex("9f01ff")),
        ("duplicate key", bytes.fromhex("a2616101616102")),
        ("unsorted keys", bytes.fromhex("a2616201616101")),
        ("long form of a small integer", bytes.fromhex("1801")),
        ("NaN", bytes.fromhex("f97e00")),
        ("big integer", bytes.fromhex("c249010000000000000000")),
        ("tag", cbor2.dumps(cbor2.CBORTag(32, "http://x"))),
        ("integer key", bytes.fromhex("a10102")),
        ("deep nesting", b"\x81" * 17 + b"\x01"),
        ("very deep nesting", b"\x81" * 100_000 + b"\x01"),
        ("trailing bytes", bytes.fromhex("0101")),
        ("a length that is not there", bytes.fromhex("9b00ffffffffffffff")),
        ("not UTF-8", bytes.fromhex("61ff")),
    ],
)
def test_refuses(name: str, data: bytes) -> None:
    with pytest.raises(codec.CodecError):
        codec.decode_tree(data)


def test_a_wrong_shape_is_named() -> None:
    with pytest.raises(codec.CodecError, match="Sample"):
        codec.decode(codec.encode({"name": 5}), Sample)


def test_unknown_fields_are_ignored() -> None:
    assert codec.decode(codec.encode({"name": "a", "later": 1}), Sample) == Sample("a")
