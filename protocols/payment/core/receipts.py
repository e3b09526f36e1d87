"""The payer's signature under a payment: what is signed, how it is written, who signed.

The bytes are the RFC 8785 canonical JSON of the payment without allocation ids; the digest is SHA3-256 (NIST's,
not Keccak); the signature is 65 bytes v, r, s with v 0 or 1 (payment reference §9.1, checked against a
recorded payment of the Golem daemon). The bytes travel with the signature, so that no two programs need to
agree on how to write a payment, only on how to read one.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import TYPE_CHECKING, Final

import msgspec
import rfc8785

from p2p.identity import InvalidSignature, recover
from protocols.ground.money import MoneyError, parse_amount
from protocols.payment.errors import BadRequest
from protocols.payment.messages import MAX_SHARES, PaymentBody

if TYPE_CHECKING:
    from p2p.identity import NodeId, Signer
    from protocols.payment.messages import ActivityShare, AgreementShare

MAX_SIGNED_BYTES: Final = 512 * 1024


def canonical_bytes(body: PaymentBody) -> bytes:
    """Return what is signed."""
    return rfc8785.dumps(msgspec.to_builtins(body))


def sign(signer: Signer, signed_bytes: bytes) -> bytes:
    """Return the signature v, r, s of `signer`."""
    signature = signer.sign(_digest(signed_bytes))
    return signature[64:] + signature[:64]


def signed_by(signed_bytes: bytes, signature: bytes) -> NodeId:
    """Return who signed. Raises InvalidSignature. Accepts v as 0 or 1, or as 27 or 28."""
    if len(signature) != 65:
        raise InvalidSignature("a payment's signature is 65 bytes: v, r and s")
    v = signature[0] - 27 if signature[0] >= 27 else signature[0]
    if v not in (0, 1):
        raise InvalidSignature("a payment's signature begins with v, which is 0, 1, 27 or 28")
    return recover(_digest(signed_bytes), signature[1:] + bytes([v]))


def read_payment(signed_bytes: bytes, signature: bytes) -> PaymentBody:
    """Return a payment that a peer sent, after checking its form and that its payer signed it.

    Raises:
        BadRequest: too large, not canonical, not a payment, amounts that do not add up, or another's
            signature.
    """
    if len(signed_bytes) > MAX_SIGNED_BYTES:
        raise BadRequest(f"a payment of {len(signed_bytes)} bytes: at most {MAX_SIGNED_BYTES}")
    try:
        body = msgspec.json.decode(signed_bytes, type=PaymentBody)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadRequest(f"not a payment: {error}") from error
    if canonical_bytes(body) != signed_bytes:
        raise BadRequest("the signed bytes are not the canonical form of a payment")
    try:
        signer = signed_by(signed_bytes, signature)
    except InvalidSignature as error:
        raise BadRequest(f"the payment's signature is unusable: {error}") from error
    if signer != body.payer_id:
        raise BadRequest(f"the payment names {body.payer_id[:42]} as payer but {signer} signed it")
    _check_amounts(body)
    return body


def transaction_hash(body: PaymentBody) -> str:
    """Return the transaction that a payment refers to, as `0x` text. Raises BadRequest."""
    try:
        raw = base64.b64decode(body.details, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadRequest("the payment's details are not base64") from error
    if len(raw) != 32:
        raise BadRequest(f"the payment's details have {len(raw)} bytes; a transaction hash has 32")
    return "0x" + raw.hex()


def details_of(tx_hash: str) -> str:
    """Return a transaction's hash as a payment's details."""
    return base64.b64encode(bytes.fromhex(tx_hash.removeprefix("0x"))).decode()


def _check_amounts(body: PaymentBody) -> None:
    shares: list[AgreementShare | ActivityShare] = [*body.agreement_payments, *body.activity_payments]
    if not shares or len(shares) > 2 * MAX_SHARES:
        raise BadRequest(f"a payment of {len(shares)} shares: expected 1 to {2 * MAX_SHARES}")
    if any(share.allocation_id is not None for share in shares):
        raise BadRequest("a payment between nodes carries no allocation ids")
    try:
        amounts = [parse_amount(share.amount) for share in shares]
        total = parse_amount(body.amount)
    except MoneyError as error:
        raise BadRequest(f"the payment's amounts: {error}") from error
    if min(amounts) <= 0 or sum(amounts) != total:
        raise BadRequest("the payment's shares must be above zero and add up to its amount")


def _digest(signed_bytes: bytes) -> bytes:
    return hashlib.sha3_256(signed_bytes).digest()
