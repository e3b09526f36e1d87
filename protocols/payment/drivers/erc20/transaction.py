"""Fee-market transactions (EIP-1559, type 2): build, sign, take apart.

Pure; the signer is an argument. The driver and the embedded chain's faucet call it. Older types and access
lists are not made here, because every chain of the registry takes type 2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import coincurve
import msgspec

from p2p.identity.node_id import InvalidNodeId, keccak256, node_id_of, parse_node_id
from protocols.payment.drivers.base import SignedTransaction
from protocols.payment.drivers.erc20 import rlp
from protocols.payment.drivers.errors import CantSign

if TYPE_CHECKING:
    from protocols.payment.drivers.base import Signer, TransactionKind, Transfer

_TYPE = b"\x02"


class BadTransaction(ValueError):
    """The bytes are no signed type-2 transaction."""


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """An unsigned type-2 transaction."""

    chain_id: int
    nonce: int
    priority_fee_wei: int
    """Per gas, the tip."""
    max_fee_wei: int
    """Per gas, base fee and tip together."""
    gas_limit: int
    to: str
    """The called contract, or empty to deploy one."""
    value_wei: int = 0
    data: bytes = b""


def sign(
    call: Call, signer: Signer, kind: TransactionKind, transfers: tuple[Transfer, ...] = ()
) -> SignedTransaction:
    """Sign a transaction.

    Raises:
        CantSign: the signer refuses, or gives something else than a signature of 65 bytes.
    """
    digest = keccak256(_TYPE + rlp.encode(_fields(call)))
    try:
        signature = signer.sign(digest)
    except Exception as error:
        raise CantSign(signer.node_id, str(error) or type(error).__name__) from error
    if len(signature) != 65 or signature[64] > 1:
        raise CantSign(signer.node_id, "the signer gave no r, s, v signature with v 0 or 1")
    r, s, v = signature[:32], signature[32:64], signature[64]
    parts: list[rlp.Item] = [rlp.encode_int(v), r.lstrip(b"\0"), s.lstrip(b"\0")]
    raw = _TYPE + rlp.encode(_fields(call) + parts)
    return SignedTransaction(
        tx_hash="0x" + keccak256(raw).hex(),
        raw=raw,
        nonce=call.nonce,
        kind=kind,
        sender=signer.node_id,
        gas_limit=call.gas_limit,
        max_fee_wei=call.max_fee_wei,
        priority_fee_wei=call.priority_fee_wei,
        transfers=transfers,
    )


def decode(raw: bytes) -> tuple[Call, str]:
    """Take a signed transaction apart; return it and its sender's address.

    Raises:
        BadTransaction: anything else than a signed type-2 transaction without access list.
    """
    try:
        if raw[:1] != _TYPE:
            raise BadTransaction("not a type-2 transaction")
        fields = rlp.decode(raw[1:])
        if not isinstance(fields, list) or len(fields) != 12 or fields[8] != []:
            raise BadTransaction("a type-2 transaction has 12 fields and, here, no access list")
        to, data = fields[5], fields[7]
        if not isinstance(to, bytes) or not isinstance(data, bytes) or len(to) not in (0, 20):
            raise BadTransaction("recipient or data is malformed")
        numbers = [rlp.decode_int(fields[i]) for i in (0, 1, 2, 3, 4, 6, 9, 10, 11)]
        chain_id, nonce, tip, fee, gas, value, v, r, s = numbers
        call = Call(
            chain_id=chain_id, nonce=nonce, priority_fee_wei=tip, max_fee_wei=fee, gas_limit=gas,
            to="0x" + to.hex() if to else "", value_wei=value, data=data,
        )  # fmt: skip
        signature = r.to_bytes(32, "big") + s.to_bytes(32, "big") + bytes([v])
        digest = keccak256(_TYPE + rlp.encode(_fields(call)))
        key = coincurve.PublicKey.from_signature_and_message(signature, digest, hasher=None)
    except (rlp.RlpError, ValueError, OverflowError) as error:
        raise BadTransaction(f"not a signed type-2 transaction: {error}") from error
    return call, node_id_of(key.format(compressed=False))


def address_bytes(address: str) -> bytes:
    """Give an address's 20 bytes.

    Raises:
        ValueError: the text is no address.
    """
    try:
        return bytes.fromhex(parse_node_id(address)[2:])
    except InvalidNodeId as error:
        raise ValueError(f"{address[:64]!r} is no address: expected 0x and 40 hexadecimal digits") from error


def created_address(sender: str, nonce: int) -> str:
    """Give the address of the contract that a sender deploys with this nonce (yellow paper, section 7)."""
    return "0x" + keccak256(rlp.encode([address_bytes(sender), rlp.encode_int(nonce)]))[12:].hex()


def _fields(call: Call) -> list[rlp.Item]:
    return [
        rlp.encode_int(call.chain_id),
        rlp.encode_int(call.nonce),
        rlp.encode_int(call.priority_fee_wei),
        rlp.encode_int(call.max_fee_wei),
        rlp.encode_int(call.gas_limit),
        address_bytes(call.to) if call.to else b"",
        rlp.encode_int(call.value_wei),
        call.data,
        [],
    ]
