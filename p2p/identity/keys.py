"""secp256k1 keys: signing as a NodeId, and finding out who signed.

A signature is 65 bytes `r || s || v` with v 0 or 1, s in the lower half of the order (EIP-2), over a
32-byte digest. Digests of our own records are made by `record_digest`, which separates their domains: a
signature on an offer can never be read as one on an agreement.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import coincurve

from p2p.identity.node_id import NodeId, keccak256, node_id_of

if TYPE_CHECKING:
    from p2p.entropy import Entropy

SIGNATURE_BYTES = 65


class InvalidSignature(ValueError):
    """A signature that no key made over this digest."""


class Signer(Protocol):
    """Signs as one NodeId."""

    @property
    def node_id(self) -> NodeId:
        """Return who signs."""
        ...

    def sign(self, digest: bytes) -> bytes:
        """Return the recoverable signature (65 bytes) over a 32-byte digest."""
        ...


class PrivateKey:
    """A secp256k1 private key; a `Signer`."""

    def __init__(self, secret: bytes) -> None:
        self._key = coincurve.PrivateKey(secret)
        self._node_id = node_id_of(self._key.public_key.format(compressed=False))

    @classmethod
    def generate(cls, entropy: Entropy) -> PrivateKey:
        """Draw a new key."""
        while True:
            secret = entropy.token_bytes(32)
            try:
                return cls(secret)
            except ValueError:  # zero or above the order: once in 2^128 draws
                continue

    @property
    def node_id(self) -> NodeId:
        return self._node_id

    @property
    def secret(self) -> bytes:
        """Return the 32 secret bytes."""
        return self._key.secret

    @property
    def public_key(self) -> bytes:
        """Return the uncompressed public key without its leading 0x04: 64 bytes."""
        return self._key.public_key.format(compressed=False)[1:]

    def sign(self, digest: bytes) -> bytes:
        return self._key.sign_recoverable(digest, hasher=None)

    def __repr__(self) -> str:
        return f"<PrivateKey of {self._node_id}>"


def recover(digest: bytes, signature: bytes) -> NodeId:
    """Return who signed `digest`.

    Raises:
        InvalidSignature: not 65 bytes, not on the curve, or with an s in the upper half (malleable).
    """
    if len(signature) != SIGNATURE_BYTES or signature[64] > 1:
        raise InvalidSignature("a signature is 65 bytes: r, s and a recovery bit")
    if int.from_bytes(signature[32:64], "big") > _HALF_ORDER:
        raise InvalidSignature("s is in the upper half of the order")
    try:
        key = coincurve.PublicKey.from_signature_and_message(signature, digest, hasher=None)
    except Exception as error:  # coincurve raises bare Exception on an unrecoverable signature
        raise InvalidSignature("no public key fits the signature") from error
    return node_id_of(key.format(compressed=False))


_HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0


def record_digest(domain: str, payload: bytes) -> bytes:
    """Return the digest to sign for a record of ours.

    Args:
        domain: what kind of record it is, such as `offer/1`; part of the digest.
        payload: the record's canonical bytes.
    """
    return keccak256(b"golem-p2p:" + domain.encode() + b"\0" + payload)
