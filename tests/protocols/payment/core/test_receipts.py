"""The payer's signature, judged by a payment that the Golem daemon signed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from p2p.entropy import SeededEntropy
from p2p.identity import InvalidSignature, PrivateKey
from protocols.payment.core import receipts
from protocols.payment.errors import BadRequest
from protocols.payment.messages import ActivityShare, AgreementShare, PaymentBody

PROBES = Path(__file__).parents[3] / "data/rest/payment-probe.jsonl"
KEY = PrivateKey.generate(SeededEntropy(5))
BODY = PaymentBody(
    payment_id="6a" * 16,
    payer_id=KEY.node_id,
    payee_id="0x" + "22" * 20,
    payer_addr=KEY.node_id,
    payee_addr="0x" + "22" * 20,
    payment_platform="erc20-devnet-tglm",
    amount="0.05",
    timestamp="2026-11-22T11:11:29.327Z",
    agreement_payments=(AgreementShare("13" * 32, "0.02"),),
    activity_payments=(ActivityShare("1f" * 16, "0.03"),),
    details=receipts.details_of("0x" + "ab" * 32),
)


def recorded() -> dict[str, Any]:
    for line in PROBES.read_text().splitlines():
        record = json.loads(line)
        if record["label"] == "payment one":
            body: dict[str, Any] = json.loads(record["body"])
            return body
    raise AssertionError("the recording is gone")


def test_a_recorded_payment_is_read_and_its_signature_verified() -> None:
    shown = recorded()
    signed, signature = bytes(shown["signedBytes"]), bytes(shown["signature"])
    body = receipts.read_payment(signed, signature)
    assert body.amount == "0.05"
    assert body.agreement_payments == (AgreementShare(shown["agreementPayments"][0]["agreementId"], "0.02"),)
    assert receipts.signed_by(signed, signature) == shown["payerId"]
    assert receipts.canonical_bytes(body) == signed
    assert receipts.transaction_hash(body).startswith("0xc09b372b")


def signed(body: PaymentBody, key: PrivateKey = KEY) -> tuple[bytes, bytes]:
    data = receipts.canonical_bytes(body)
    return data, receipts.sign(key, data)


def test_round_trip() -> None:
    assert receipts.read_payment(*signed(BODY)) == BODY


def test_v_of_27_or_28_is_understood() -> None:
    data, signature = signed(BODY)
    assert receipts.signed_by(data, bytes([signature[0] + 27]) + signature[1:]) == KEY.node_id


@pytest.mark.parametrize("signature", [b"", b"\0" * 64, b"\2" + b"\1" * 64, b"\0" * 65, b"\xff" * 65])
def test_what_is_no_signature(signature: bytes) -> None:
    with pytest.raises(InvalidSignature):
        receipts.signed_by(b"x", signature)
    with pytest.raises(BadRequest):
        receipts.read_payment(signed(BODY)[0], signature)


def test_another_payers_signature_is_refused() -> None:
    other = PrivateKey.generate(SeededEntropy(6))
    with pytest.raises(BadRequest, match="signed it"):
        receipts.read_payment(*signed(BODY, other))


def test_changed_bytes_are_refused() -> None:
    data, signature = signed(BODY)
    with pytest.raises(BadRequest):
        receipts.read_payment(data.replace(b"0.05", b"0.06"), signature)


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[1]", b"\xff", b"[" * 5000, b"x" * (receipts.MAX_SIGNED_BYTES + 1)]
)
def test_what_is_no_payment(data: bytes) -> None:
    with pytest.raises(BadRequest):
        receipts.read_payment(data, receipts.sign(KEY, data))


def test_only_the_canonical_form_is_taken() -> None:
    for data in (receipts.canonical_bytes(BODY) + b" ", json.dumps(msgspec.to_builtins(BODY)).encode()):
        with pytest.raises(BadRequest, match="canonical"):
            receipts.read_payment(data, receipts.sign(KEY, data))


@pytest.mark.parametrize(
    "change",
    [
        {"amount": "0.06"},
        {"amount": "-0.05"},
        {"amount": "x"},
        {"agreement_payments": (), "activity_payments": (), "amount": "0"},
        {"agreement_payments": (AgreementShare("13" * 32, "0.05"), AgreementShare("14" * 32, "-0.03"))},
        {"agreement_payments": (AgreementShare("13" * 32, "0.02", "allocation"),)},
        {"activity_payments": (ActivityShare("1f" * 16, "0.030"), ActivityShare("2f" * 16, "0"))},
    ],
)
def test_amounts_that_make_no_sense(change: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        receipts.read_payment(*signed(msgspec.structs.replace(BODY, **change)))


@pytest.mark.parametrize("details", ["", "!!", "aGFsbG8=", "a" * 10_000])
def test_details_that_are_no_hash(details: str) -> None:
    with pytest.raises(BadRequest):
        receipts.transaction_hash(msgspec.structs.replace(BODY, details=details))
