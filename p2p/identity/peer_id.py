"""PeerId and NodeId: two names of one secp256k1 key, as pure functions without libp2p.

A libp2p PeerId of a key of at most 42 bytes is the key itself, wrapped (libp2p/specs, peer-ids): base58btc of an
identity multihash of a protobuf `PublicKey {type: Secp256k1, data: 33 bytes}`. So the NodeId, which is a hash of
the key, follows from the PeerId; the other way needs the key.
"""

from __future__ import annotations

import coincurve

from p2p import base58
from p2p.identity.node_id import NodeId, node_id_of

_PREFIX = bytes([0x00, 0x25, 0x08, 0x02, 0x12, 0x21])
"""Multihash code identity, 37 bytes; field 1 (type) = 2, Secp256k1; field 2 (data), 33 bytes."""
PEER_ID_BYTES = len(_PREFIX) + 33


class InvalidPeerId(ValueError):
    """A text that is not the PeerId of a secp256k1 key."""


def peer_id_of(public_key: bytes) -> str:
    """Return the PeerId of a public key (64 or 65 bytes uncompressed, or 33 compressed), as text."""
    return base58.encode(peer_id_bytes(public_key))


def peer_id_bytes(public_key: bytes) -> bytes:
    """Return the PeerId of a public key (64 or 65 bytes uncompressed, or 33 compressed), as it is on the wire."""
    point = b"\x04" + public_key if len(public_key) == 64 else public_key
    return _PREFIX + coincurve.PublicKey(point).format(compressed=True)


def key_in_peer_id(peer_id: bytes) -> coincurve.PublicKey | None:
    """Return the secp256k1 key inside a PeerId, or None if it holds none.

    Raises:
        ValueError: it says that it holds one, but no such point is on the curve.
    """
    if len(peer_id) != PEER_ID_BYTES or not peer_id.startswith(_PREFIX):
        return None
    return coincurve.PublicKey(peer_id[len(_PREFIX) :])


def node_id_of_peer(peer_id: str) -> NodeId:
    """Return the NodeId of the key that is in a PeerId, given as text.

    Raises:
        InvalidPeerId: not base58, of another type of key, or not a point on the curve.
    """
    try:
        raw = base58.decode(peer_id)
    except ValueError as error:
        raise InvalidPeerId(str(error)) from error
    try:
        key = key_in_peer_id(raw)
    except ValueError as error:
        raise InvalidPeerId(f"{peer_id[:64]!r} holds no valid public key") from error
    if key is None:
        raise InvalidPeerId(
            f"{peer_id[:64]!r} is not the peer id of a secp256k1 key, and so of no node: they start with 16Uiu2H"
        )
    return node_id_of(key.format(compressed=False))
