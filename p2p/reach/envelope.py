"""Signed envelopes: bytes with a purpose, signed by a libp2p identity key. Sans-IO.

The signature covers the domain, which is not on the wire: what was signed for one purpose is no good for another.
Source: libp2p/specs RFC 0002, signed envelopes (its protobuf: 1 public key, 2 payload type, 3 payload, 5 signature).

Errors:
    InvalidEnvelope     not an envelope, or not signed by the key that it names for this purpose
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2p.identity.envelope import PAYLOAD, PAYLOAD_TYPE, PUBLIC_KEY, SIGNATURE, pack, signed_bytes
from p2p.protobuf import WireError, read_fields
from p2p.session import HandshakeFailed
from p2p.session.identity import decode_key

if TYPE_CHECKING:
    from p2p.session import IdentityKey, PeerKey

MAX_BYTES = 8192


class InvalidEnvelope(ValueError):
    """An envelope that proves nothing; the message says why."""


def seal(domain: str, payload_type: bytes, payload: bytes, key: IdentityKey) -> bytes:
    """Return `payload` in an envelope signed by `key`.

    Args:
        payload_type: a multicodec's code, as the use's specification gives it.
    """
    signature = key.sign(signed_bytes(domain.encode(), payload_type, payload))
    return pack(key.public.encode(), payload_type, payload, signature)


def unseal(domain: str, payload_type: bytes, data: bytes) -> tuple[PeerKey, bytes]:
    """Return who signed an envelope, and what. Raises InvalidEnvelope."""
    if len(data) > MAX_BYTES:
        raise InvalidEnvelope(f"an envelope has at most {MAX_BYTES} bytes, not {len(data)}")
    try:
        fields = {tag: value for tag, _, value in read_fields(data)}
        signer = decode_key(fields.get(PUBLIC_KEY, b""))
    except (WireError, HandshakeFailed) as error:
        raise InvalidEnvelope(f"not an envelope: {error}") from error
    if fields.get(PAYLOAD_TYPE) != payload_type:
        raise InvalidEnvelope("the envelope holds something else than it should")
    payload = fields.get(PAYLOAD, b"")
    if not signer.verify(fields.get(SIGNATURE, b""), signed_bytes(domain.encode(), payload_type, payload)):
        raise InvalidEnvelope("the envelope was not signed by the key that it names, or for another purpose")
    return signer, payload
