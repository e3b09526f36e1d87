"""RLP agrees with the reference implementation, and takes only canonical bytes."""

from __future__ import annotations

import pytest
import rlp as reference
from hypothesis import given
from hypothesis import strategies as st

from protocols.payment.drivers.erc20 import rlp

items = st.recursive(st.binary(max_size=70), lambda inner: st.lists(inner, max_size=6), max_leaves=20)


@given(items)
def test_encoding_equals_the_reference_and_comes_back(item: rlp.Item) -> None:
    encoded = rlp.encode(item)
    assert encoded == reference.encode(item)
    assert rlp.decode(encoded) == item


@given(st.binary(max_size=80))
def test_whatever_decodes_is_canonical(data: bytes) -> None:
    try:
        item = rlp.decode(data)
    except rlp.RlpError:
        with pytest.raises(reference.exceptions.RLPException):
            reference.decode(data, strict=True)
    else:
        assert rlp.encode(item) == data


@given(st.integers(min_value=0, max_value=(1 << 256) - 1))
def test_numbers_come_back(number: int) -> None:
    assert rlp.decode_int(rlp.encode_int(number)) == number


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(rlp.RlpError, match="deep"):
        rlp.decode(rlp.encode(_nested(40)))


@pytest.mark.parametrize("item", [b"\0", b"\0\1", b"\1" * 33, []])
def test_malformed_numbers_are_refused(item: rlp.Item) -> None:
    with pytest.raises(rlp.RlpError):
        rlp.decode_int(item)


def _nested(depth: int) -> rlp.Item:
    item: rlp.Item = b""
    for _ in range(depth):
        item = [item]
    return item
