"""Signed peer records: who is where, in a form that anyone can check. libp2p's own wire format.

An envelope {public key, payload type, payload, signature} around a `PeerRecord` {peer id, seq, addresses}. The
signature is ECDSA (DER) over SHA-256 of domain, payload type and payload, each after its length as a varint. Only
secp256k1 keys are read, since only they make a NodeId. Pure; without libp2p.
Sources: libp2p RFC 0002 (signed envelopes) and RFC 0003 (routing records), libp2p/specs.

Errors:
    InvalidRecord   bytes that are no record, or not of who they say
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import coincurve
import msgspec

from p2p import multiaddr
from p2p.identity import envelope
from p2p.identity.node_id import NodeId, node_id_of
from p2p.identity.peer_id import key_in_peer_id, peer_id_bytes
from p2p.protobuf import WireError, encode_bytes, encode_number, read_fields

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from p2p.identity.keys import PrivateKey

DOMAIN = b"libp2p-peer-record"
PAYLOAD_TYPE = b"\x03\x01"
MAX_RECORD_BYTES = 2048
MAX_ADDRESSES = 8
"""Addresses that one record may have."""

_KEY_PREFIX_BYTES = 2
"""What a PeerId has before the protobuf of its key: the multihash's code and length."""
_PEER_ID, _SEQ, _ADDRESS = 1 << 3 | 2, 2 << 3, 3 << 3 | 2
_MULTIADDR = 1 << 3 | 2


class InvalidRecord(ValueError):
    """Not a peer record, or its signature is not of the peer that it is about; the message says why."""


class PeerRecord(msgspec.Struct, frozen=True):
    """A record whose signature was found good."""

    node_id: NodeId
    """Who signed it, and is where it says."""
    peer_id: bytes
    """The same as a libp2p PeerId, in binary."""
    seq: int
    """Of two records the higher one counts. By custom UTC nanoseconds of when it was signed."""
    addresses: tuple[multiaddr.Multiaddr, ...]
    """Where the node says that it is, as it wrote them; not checked beyond their form."""


def sign_peer_record(key: PrivateKey, seq: int, addresses: Iterable[multiaddr.Multiaddr]) -> bytes:
    """Return the signed envelope of a record for `key`'s own node."""
    peer_id = peer_id_bytes(key.public_key)
    payload = encode_bytes(_PEER_ID, peer_id) + encode_number(_SEQ, seq)
    for address in addresses:
        payload += encode_bytes(_ADDRESS, encode_bytes(_MULTIADDR, address.encode()))
    signature = coincurve.PrivateKey(key.secret).sign(envelope.signed_bytes(DOMAIN, PAYLOAD_TYPE, payload))
    return envelope.pack(peer_id[_KEY_PREFIX_BYTES:], PAYLOAD_TYPE, payload, signature)


def verify_peer_record(data: bytes) -> PeerRecord:
    """Return what a signed envelope says, if its signer is the peer that the record is about.

    Raises:
        InvalidRecord: too large, misshapen, not a peer record, of another key, or the signature does not fit.
    """
    if len(data) > MAX_RECORD_BYTES:
        raise InvalidRecord(f"a peer record of {len(data)} bytes; {MAX_RECORD_BYTES} are allowed")
    try:
        public_key, payload_type, payload, signature = _single(data, envelope.FIELDS).values()
        if payload_type != PAYLOAD_TYPE:
            raise InvalidRecord(f"an envelope with payload type {payload_type[:8].hex()} is no peer record")
        peer_id, seq, addresses = _read_payload(payload)
        key = key_in_peer_id(peer_id)
        if key is None:
            raise InvalidRecord("the record is of a peer whose key is not secp256k1, and so of no node")
        if peer_id[_KEY_PREFIX_BYTES:] != public_key:
            raise InvalidRecord("the record is of another peer than the one that signed it")
        # libsecp256k1 takes no s above half the order, so that nobody can make a second valid signature.
        if not key.verify(signature, envelope.signed_bytes(DOMAIN, PAYLOAD_TYPE, payload)):
            raise InvalidRecord("the record's signature does not fit")
    except InvalidRecord:
        raise
    except (
        WireError,
        ValueError,
        KeyError,
    ) as error:  # not a frame, not a point, not DER; a field is missing
        raise InvalidRecord(f"not a peer record: {error!r}") from error
    return PeerRecord(node_id_of(key.format(compressed=False)), peer_id, seq, addresses)


def _single(data: bytes, tags: tuple[int, ...]) -> Mapping[int, bytes]:
    """Return the bytes of each field in `tags`, in that order; each has to be there once, and nothing else."""
    found: dict[int, bytes] = {}
    for tag, _, value in read_fields(data):
        if tag not in tags or tag in found:
            raise InvalidRecord(f"an envelope has field {tag >> 3} twice, or should not have it")
        found[tag] = value
    return {tag: found[tag] for tag in tags}


def _read_payload(payload: bytes) -> tuple[bytes, int, tuple[multiaddr.Multiaddr, ...]]:
    peer_id, seq = None, None
    addresses: list[multiaddr.Multiaddr] = []
    for tag, number, value in read_fields(payload):
        if tag == _PEER_ID and peer_id is None:
            peer_id = value
        elif tag == _SEQ and seq is None:
            seq = number
        elif tag == _ADDRESS and len(addresses) < MAX_ADDRESSES:
            addresses.append(multiaddr.decode(_single(value, (_MULTIADDR,))[_MULTIADDR]))
        elif tag in (_PEER_ID, _SEQ, _ADDRESS):
            raise InvalidRecord(f"a peer record has field {tag >> 3} too often")
    if peer_id is None or seq is None:
        raise InvalidRecord("a peer record lacks its peer or its number")
    return peer_id, seq, tuple(addresses)
