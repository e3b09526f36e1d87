"""NodeId: who a node is.

A NodeId is the Ethereum address of a secp256k1 public key, written as `0x` and 40 lower-case hexadecimal
digits. The same key is the node's libp2p identity, so that a session proves a NodeId.
"""

from __future__ import annotations

import re
from typing import NewType

from Crypto.Hash import keccak

NodeId = NewType("NodeId", str)
"""`0x` and 40 lower-case hexadecimal digits."""

_FORM = re.compile(r"0x[0-9a-f]{40}\Z")


class InvalidNodeId(ValueError):
    """A text that is not a NodeId."""


def parse_node_id(text: str) -> NodeId:
    """Return `text` as a NodeId, in lower case.

    Raises:
        InvalidNodeId: not `0x` and 40 hexadecimal digits.
    """
    lowered = text.lower()
    if not _FORM.match(lowered):
        raise InvalidNodeId(f"{text[:64]!r} is not a node id: expected 0x and 40 hexadecimal digits")
    return NodeId(lowered)


def node_id_of(public_key: bytes) -> NodeId:
    """Return the NodeId of an uncompressed public key (64 bytes, or 65 with the leading 0x04).

    The last 20 bytes of the key's Keccak-256 hash (Ethereum yellow paper, appendix F).
    """
    point = public_key[1:] if len(public_key) == 65 else public_key
    if len(point) != 64:
        raise InvalidNodeId(f"an uncompressed public key has 64 bytes, not {len(point)}")
    return NodeId("0x" + keccak256(point)[-20:].hex())


def keccak256(data: bytes) -> bytes:
    """Return the Keccak-256 hash (the original padding, as Ethereum uses; not NIST's SHA3-256)."""
    return keccak.new(digest_bits=256, data=data).digest()
