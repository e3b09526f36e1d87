"""Who is at an end of a session: libp2p identity keys, their protobuf form and their PeerIds.

secp256k1 keys are those of nodes, and give a NodeId; Ed25519 keys belong to other libp2p programs, who may be
answered but are no nodes. RSA and ECDSA keys are refused. Called by `noise`; performs no I/O.

Sources: libp2p/specs peer-ids (keys, PeerId as identity multihash of keys of at most 42 bytes, signatures:
secp256k1 in DER over SHA-256, Ed25519 plain).
"""

from __future__ import annotations

from typing import Literal, Protocol

import coincurve
import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from p2p import base58
from p2p.identity import NodeId, node_id_of
from p2p.session.errors import HandshakeFailed

KeyType = Literal["ed25519", "secp256k1"]

_CODES: dict[KeyType, int] = {"ed25519": 1, "secp256k1": 2}
_TYPES: dict[int, KeyType] = {code: kind for kind, code in _CODES.items()}
_LENGTHS: dict[KeyType, int] = {"ed25519": 32, "secp256k1": 33}
_MAX_SIGNATURE_BYTES = 128


class PeerKey(msgspec.Struct, frozen=True):
    """A public identity key."""

    kind: KeyType
    data: bytes
    """32 bytes of Ed25519, or 33 of secp256k1 (compressed)."""

    def encode(self) -> bytes:
        """Return the key as libp2p's protobuf `PublicKey`."""
        return bytes((0x08, _CODES[self.kind], 0x12, len(self.data))) + self.data

    @property
    def peer_id(self) -> str:
        """Return the PeerId in base58: `16Uiu2H...` or `12D3KooW...`."""
        encoded = self.encode()
        return base58.encode(bytes((0x00, len(encoded))) + encoded)

    @property
    def node_id(self) -> NodeId | None:
        """Return the NodeId of a secp256k1 key; None for other keys, which are no nodes."""
        if self.kind != "secp256k1":
            return None
        return node_id_of(coincurve.PublicKey(self.data).format(compressed=False))

    def verify(self, signature: bytes, message: bytes) -> bool:
        """Return whether the key's owner signed `message`."""
        if len(signature) > _MAX_SIGNATURE_BYTES:
            return False
        try:
            if self.kind == "ed25519":
                Ed25519PublicKey.from_public_bytes(self.data).verify(signature, message)
                return True
            return coincurve.PublicKey(self.data).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False


def decode_key(data: bytes) -> PeerKey:
    """Return the key in a protobuf `PublicKey`.

    Raises:
        HandshakeFailed: not such a message, another type of key, or not a valid key.
    """
    fields = read_fields(data)
    kind, body = fields.get(1), fields.get(2)
    known = _TYPES.get(kind) if isinstance(kind, int) else None
    if known is None or not isinstance(body, bytes) or len(body) != _LENGTHS[known]:
        raise HandshakeFailed("the peer's identity is neither a secp256k1 nor an Ed25519 key")
    if known == "secp256k1":
        try:
            coincurve.PublicKey(body)
        except ValueError as error:
            raise HandshakeFailed("the peer's identity is no point on the curve") from error
    return PeerKey(known, body)


class IdentityKey(Protocol):
    """A private identity key."""

    @property
    def public(self) -> PeerKey:
        """Return the public half."""
        ...

    def sign(self, message: bytes) -> bytes:
        """Return the signature in the form that libp2p gives keys of this type."""
        ...


class Secp256k1Identity:
    """A node's identity.

    Args:
        secret: the 32 bytes of the private key (`p2p.identity.PrivateKey.secret`).
    """

    def __init__(self, secret: bytes) -> None:
        self._key = coincurve.PrivateKey(secret)
        self._public = PeerKey("secp256k1", self._key.public_key.format(compressed=True))

    @property
    def public(self) -> PeerKey:
        return self._public

    def sign(self, message: bytes) -> bytes:
        return self._key.sign(message)


class Ed25519Identity:
    """The identity of a libp2p program that is no node; used to test against such.

    Args:
        secret: the 32 bytes of the private key.
    """

    def __init__(self, secret: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(secret)
        self._public = PeerKey("ed25519", self._key.public_key().public_bytes_raw())

    @property
    def public(self) -> PeerKey:
        return self._public

    def sign(self, message: bytes) -> bytes:
        return self._key.sign(message)


def read_fields(data: bytes) -> dict[int, int | bytes]:
    """Return the fields of a small protobuf message by number: varints as int, the rest as bytes.

    Unknown fields are kept, of repeated ones the last counts, as protobuf has it.

    Raises:
        HandshakeFailed: the message is cut off or uses wire types that these messages do not have.
    """
    fields: dict[int, int | bytes] = {}
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        value, at = _varint(data, at)
        if tag & 7 == 2:
            if value > len(data) - at:
                raise HandshakeFailed("the peer sent a protobuf message that is cut off")
            fields[tag >> 3] = data[at : at + value]
            at += value
        elif tag & 7 == 0:
            fields[tag >> 3] = value
        else:
            raise HandshakeFailed("the peer sent a protobuf message of an unknown form")
    return fields


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 35:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise HandshakeFailed("the peer sent a protobuf message that is cut off")
