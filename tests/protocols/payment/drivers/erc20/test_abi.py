"""The ABI encoder equals eth-abi on the types of our contracts."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import eth_abi
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.payment.drivers.erc20 import abi

addresses = st.binary(min_size=20, max_size=20).map(lambda raw: "0x" + raw.hex())
config = "(address,address,address,uint64,bytes32)"
words = st.binary(min_size=32, max_size=32)
configs = st.tuples(addresses, addresses, addresses, st.integers(0, 2**64 - 1), words)
KINDS: dict[str, st.SearchStrategy[Any]] = {
    "uint256": st.integers(0, 2**256 - 1),
    "uint96": st.integers(0, 2**96 - 1),
    "uint8": st.integers(0, 255),
    "bool": st.booleans(),
    "address": addresses,
    "bytes32": words,
    "bytes4": st.binary(min_size=4, max_size=4),
    "bytes": st.binary(max_size=100),
    "string": st.text(alphabet=st.characters(codec="utf-8"), max_size=40),
    "bytes32[]": st.lists(words, max_size=5),
    "address[]": st.lists(addresses, max_size=5),
    "uint256[2]": st.lists(st.integers(0, 2**256 - 1), min_size=2, max_size=2),
    config: configs,
    f"{config}[]": st.lists(configs, max_size=3),
    f"({config},uint96,bytes)[]": st.lists(
        st.tuples(configs, st.integers(0, 2**96 - 1), st.binary(max_size=65)), max_size=3
    ),
}


@st.composite
def arguments(draw: st.DrawFn) -> tuple[list[str], list[Any]]:
    kinds = draw(st.lists(st.sampled_from(sorted(KINDS)), max_size=5))
    return kinds, [draw(KINDS[kind]) for kind in kinds]


@given(arguments())
def test_equals_eth_abi_and_comes_back(given_: tuple[list[str], list[Any]]) -> None:
    kinds, values = given_
    encoded = abi.encode(kinds, values)
    assert encoded == eth_abi.encode(kinds, values)
    assert abi.decode(kinds, encoded) == tuple(values)


@given(st.sampled_from(sorted(KINDS)), st.binary(max_size=300))
def test_hostile_results_raise_only_their_own_error(kind: str, data: bytes) -> None:
    with suppress(abi.AbiError):
        abi.decode((kind,), data)


def test_selectors_are_the_well_known_ones() -> None:
    assert abi.selector("transfer(address,uint256)").hex() == "a9059cbb"
    assert abi.selector("approve(address,uint256)").hex() == "095ea7b3"
    assert abi.selector("balanceOf(address)").hex() == "70a08231"
    assert abi.topic("Transfer(address,address,uint256)") == (
        "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"
    )


def test_call_without_arguments_is_its_selector() -> None:
    assert abi.call("create()") == abi.selector("create()")


def test_call_splits_nested_types() -> None:
    signature = "claimMany(address,((address,uint96),bytes)[])"
    payee = "0x" + "11" * 20
    values: list[Any] = [((payee, 5), b"abc")]
    expected = eth_abi.encode(["address", "((address,uint96),bytes)[]"], [payee, values])
    assert abi.call(signature, payee, values) == abi.selector(signature) + expected


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("uint96", 1 << 96),
        ("uint256", -1),
        ("address", "0x12"),
        ("bytes32", b"short"),
        ("uint256[2]", [1]),
        ("fixed", 1),
    ],
)
def test_values_that_do_not_fit_are_refused(kind: str, value: object) -> None:
    with pytest.raises(abi.AbiError):
        abi.encode((kind,), (value,))
    with pytest.raises(abi.AbiError):
        abi.encode(("uint256", kind), (1,))
