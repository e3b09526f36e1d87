"""Transactions are byte for byte those of eth-account, and come apart again."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from eth_account import Account
from eth_utils import to_checksum_address

from p2p.identity.keys import PrivateKey
from protocols.payment.drivers.erc20 import rlp
from protocols.payment.drivers.erc20.transaction import BadTransaction, Call, created_address, decode, sign
from protocols.payment.drivers.errors import CantSign

KEY = PrivateKey(b"\x07" * 32)
CALL = Call(
    chain_id=5, nonce=3, priority_fee_wei=1, max_fee_wei=9, gas_limit=21_000, to="0x" + "11" * 20, data=b"abc"
)


def random_call(source: random.Random) -> Call:
    fee = source.getrandbits(source.choice([1, 8, 40, 90]))
    return Call(
        chain_id=source.choice([1, 137, 560048, 0x474C4D, 2**40]),
        nonce=source.choice([0, 1, 127, 128, 2**32]),
        priority_fee_wei=source.randint(0, fee),
        max_fee_wei=fee,
        gas_limit=source.choice([21_000, 55_555, 30_000_000]),
        to=source.choice(["", "0x" + source.randbytes(20).hex()]),
        value_wei=source.choice([0, 1, 10**18, source.getrandbits(250)]),
        data=source.randbytes(source.choice([0, 1, 55, 56, 68, 300, 70_000])),
    )


def as_eth_account(call: Call, secret: bytes) -> tuple[bytes, str]:
    """The raw bytes and the hash that eth-account makes of the same transaction."""
    fields: dict[str, Any] = {
        "type": 2,
        "chainId": call.chain_id,
        "nonce": call.nonce,
        "maxPriorityFeePerGas": call.priority_fee_wei,
        "maxFeePerGas": call.max_fee_wei,
        "gas": call.gas_limit,
        "value": call.value_wei,
        "data": call.data,
    }
    if call.to:
        fields["to"] = to_checksum_address(call.to)
    expected = Account.sign_transaction(fields, secret)
    return bytes(expected.raw_transaction), "0x" + bytes(expected.hash).hex()


@pytest.mark.parametrize("seed", range(200))
def test_same_bytes_as_eth_account(seed: int) -> None:
    source = random.Random(seed)
    call, secret = random_call(source), source.randbytes(32)
    signed = sign(call, PrivateKey(secret), "transfer")
    assert (signed.raw, signed.tx_hash) == as_eth_account(call, secret)
    assert decode(signed.raw) == (call, PrivateKey(secret).node_id)


@pytest.mark.parametrize("half", [0, 1], ids=["r", "s"])
def test_short_signature_halves_are_written_without_zeros(half: int) -> None:
    """One signature in 256 begins with a zero byte; found here, because two hundred random ones may have none."""
    nonces = (nonce for nonce in range(10_000) if _half(nonce, half)[0] == 0)
    call = msgspec.structs.replace(CALL, nonce=next(nonces))
    signed = sign(call, KEY, "transfer")
    assert (signed.raw, signed.tx_hash) == as_eth_account(call, KEY.secret)
    assert decode(signed.raw) == (call, KEY.node_id)


def _half(nonce: int, half: int) -> bytes:
    seen: list[bytes] = []

    class Recorder:
        node_id = KEY.node_id

        def sign(self, digest: bytes) -> bytes:
            seen.append(KEY.sign(digest))
            return seen[-1]

    sign(msgspec.structs.replace(CALL, nonce=nonce), Recorder(), "transfer")
    return seen[0][32 * half :]


def test_created_address_is_that_of_the_chain() -> None:
    # The first address that any deployer of key 1 creates; also EIP-161's formula.
    assert created_address("0x6ac7ea33f8831ea9dcc53393aaa88b25a785dbf0", 0) == (
        "0xcd234a471b72ba2f1ccf0a70fcaba648a5eecd8d"
    )


class BadSigner:
    node_id = "0x" + "22" * 20

    def __init__(self, answer: bytes | Exception) -> None:
        self.answer = answer

    def sign(self, digest: bytes) -> bytes:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize("answer", [PermissionError("locked"), b"", b"\1" * 64, b"\1" * 64 + b"\x1b"])
def test_refusing_signer_is_named(answer: bytes | Exception) -> None:
    with pytest.raises(CantSign, match="0x2222"):
        sign(CALL, BadSigner(answer), "transfer")


def test_broken_bytes_are_refused() -> None:
    raw = sign(CALL, KEY, "transfer").raw
    fields = rlp.decode(raw[1:])
    assert isinstance(fields, list)
    with_access_list: list[rlp.Item] = [*fields[:8], [b"x"], *fields[9:]]
    no_key: list[rlp.Item] = [*fields[:10], b"\xff" * 32, fields[11]]
    for bad in (
        b"",
        raw[:-1],
        raw + b"\0",
        raw[1:],
        b"\x01" + raw[1:],
        b"\x02" + rlp.encode(fields[:9]),
        b"\x02" + rlp.encode(with_access_list),
        b"\x02" + rlp.encode(no_key),
    ):
        with pytest.raises(BadTransaction):
            decode(bad)
