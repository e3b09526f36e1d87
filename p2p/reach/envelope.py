"""Signed envelopes: bytes with a purpose, signed by a libp2p identity key. Sans-IO.

The signature covers the domain, which is not on the wire: what was signed for one purpose is no good for another.
Source: libp2p/specs RFC 0002, signed envelopes (its protobuf: 1 public key, 2 payload type, 3 payload, 5 signature).

Errors:
    InvalidEnvelope     not an envelope, or not signed by the key that it names for this purpose
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2p.protobuf import WireError, encode_bytes, encode_varint, read_fields
from p2p.session import HandshakeFailed
from p2p.session.identity import decode_key

if TYPE_CHECKING:
    from p2p.session import IdentityKey, PeerKey

MAX_BYTES = 8192

_KEY, _TYPE, _PAYLOAD, _SIGNATURE = 0x0A, 0x12, 0x1A, 0x2A


class InvalidEnvelope(ValueError):
    """An envelope that proves nothing; the message says why."""


def seal(domain: str, payload_type: bytes, payload: bytes, key: IdentityKey) -> bytes:
    """Return `payload` in an envelope signed by `key`.

    Args:
        payload_type: a multicodec's code, as the use's specification gives it.
    """
    signature = key.sign(_signed(domain, payload_type, payload))
    return (
        encode_bytes(_KEY, key.public.encode())
        + encode_bytes(_TYPE, payload_type)
        + encode_bytes(_PAYLOAD, payload)
        + encode_bytes(_SIGNATURE, signature)
    )


def unseal(domain: str, payload_type: bytes, data: bytes) -> tuple[PeerKey, bytes]:
    """Return who signed an envelope, and what. Raises InvalidEnvelope."""
    if len(data) > MAX_BYTES:
        raise InvalidEnvelope(f"an envelope has at most {MAX_BYTES} bytes, not {len(data)}")
    try:
        fields = {tag: value for tag, _, value in read_fields(data)}
        signer = decode_key(fields.get(_KEY, b""))
    except (WireError, HandshakeFailed) as error:
        raise InvalidEnvelope(f"not an envelope: {error}") from error
    if fields.get(_TYPE) != payload_type:
        raise InvalidEnvelope("the envelope holds something else than it should")
    payload = fields.get(_PAYLOAD, b"")
    if not signer.verify(fields.get(_SIGNATURE, b""), _signed(domain, payload_type, payload)):
        raise InvalidEnvelope("the envelope was not signed by the key that it names, or for another purpose")
    return signer, payload


def _signed(domain: str, payload_type: bytes, payload: bytes) -> bytes:
    pieces = (domain.encode(), payload_type, payload)
    return b"".join(encode_varint(len(piece)) + piece for piece in pieces)
