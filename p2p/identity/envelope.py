"""libp2p's signed envelopes: their fields, and what the signature covers. Pure.

Who signs, and what is accepted of others, is the callers': `records` (where a node is), `p2p.reach.envelope`.
Source: libp2p/specs RFC 0002, signed envelopes.
"""

from __future__ import annotations

from p2p.protobuf import encode_bytes, encode_varint

PUBLIC_KEY, PAYLOAD_TYPE, PAYLOAD, SIGNATURE = 0x0A, 0x12, 0x1A, 0x2A
FIELDS = (PUBLIC_KEY, PAYLOAD_TYPE, PAYLOAD, SIGNATURE)
"""Tags of an envelope's fields, in order."""


def pack(public_key: bytes, payload_type: bytes, payload: bytes, signature: bytes) -> bytes:
    """Return an envelope.

    Args:
        public_key: the signer's, as libp2p's protobuf.
        payload_type: a multicodec's code, as the use's specification gives it.
    """
    return (
        encode_bytes(PUBLIC_KEY, public_key)
        + encode_bytes(PAYLOAD_TYPE, payload_type)
        + encode_bytes(PAYLOAD, payload)
        + encode_bytes(SIGNATURE, signature)
    )


def signed_bytes(domain: bytes, payload_type: bytes, payload: bytes) -> bytes:
    """Return what is signed. The domain is not on the wire: what was signed for one use is no good for another."""
    return b"".join(encode_varint(len(part)) + part for part in (domain, payload_type, payload))
