"""NodeIds, signatures and who made them, against eth-keys as the judge."""

from __future__ import annotations

import eth_keys
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.entropy import SeededEntropy
from p2p.identity import (
    InvalidNodeId,
    InvalidSignature,
    PrivateKey,
    keccak256,
    parse_node_id,
    record_digest,
    recover,
)

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
secrets = st.integers(1, ORDER - 1).map(lambda number: number.to_bytes(32, "big"))


@given(secrets, st.binary(min_size=32, max_size=32))
def test_agrees_with_eth_keys(secret: bytes, digest: bytes) -> None:
    key, judge = PrivateKey(secret), eth_keys.keys.PrivateKey(secret)
    assert key.node_id == judge.public_key.to_address()
    assert key.public_key == judge.public_key.to_bytes()
    signature = key.sign(digest)
    assert signature == judge.sign_msg_hash(digest).to_bytes()
    assert recover(digest, signature) == key.node_id


def test_a_changed_digest_gives_another_signer() -> None:
    key = PrivateKey.generate(SeededEntropy(1))
    signature = key.sign(keccak256(b"one"))
    assert recover(keccak256(b"two"), signature) != key.node_id


def test_domains_are_apart() -> None:
    assert record_digest("offer/1", b"x") != record_digest("agreement/1", b"x")


@pytest.mark.parametrize(
    "signature",
    [b"", bytes(64), bytes(65), bytes(64) + b"\x02", b"\xff" * 64 + b"\x00", b"\x01" * 66],
)
def test_refuses_what_is_no_signature(signature: bytes) -> None:
    with pytest.raises(InvalidSignature):
        recover(bytes(32), signature)


def test_refuses_the_malleable_twin() -> None:
    digest = keccak256(b"x")
    signature = PrivateKey.generate(SeededEntropy(1)).sign(digest)
    s = ORDER - int.from_bytes(signature[32:64], "big")
    twin = signature[:32] + s.to_bytes(32, "big") + bytes([signature[64] ^ 1])
    with pytest.raises(InvalidSignature, match="upper half"):
        recover(digest, twin)


def test_the_key_hides_its_secret() -> None:
    key = PrivateKey.generate(SeededEntropy(1))
    assert key.secret.hex() not in repr(key)


def test_node_ids_are_lower_case() -> None:
    assert parse_node_id("0x" + "AB" * 20) == "0x" + "ab" * 20
    for wrong in ("", "0x12", "ab" * 20, "0x" + "g" * 40, "0x" + "a" * 40 + "\n"):
        with pytest.raises(InvalidNodeId):
            parse_node_id(wrong)
