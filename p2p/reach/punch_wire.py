"""The messages of DCUtR, by which two peers that are connected through a relay agree to dial each other at once.

Source: libp2p/specs relay/DCUtR. Sans-IO. Errors: `p2p.protobuf.WireError`.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from p2p.multiaddr import decode_all, parse
from p2p.protobuf import WireError, encode_bytes, encode_number, read_fields

DCUTR = "/libp2p/dcutr"
MAX_MESSAGE_BYTES = 4096
MAX_ADDRESSES = 16

_CONNECT, _SYNC = 100, 300


class HolePunch(msgspec.Struct, frozen=True):
    """`connect` says where one may be reached; `sync` says that it is time."""

    kind: Literal["connect", "sync"]
    addresses: tuple[str, ...] = ()
    """Multiaddrs at which others saw the sender."""


def encode(message: HolePunch) -> bytes:
    """Return a message, without its length."""
    out = encode_number(0x08, _CONNECT if message.kind == "connect" else _SYNC)
    return out + b"".join(encode_bytes(0x12, parse(address).encode()) for address in message.addresses)


def decode(data: bytes) -> HolePunch:
    """Read a message. Raises WireError."""
    if len(data) > MAX_MESSAGE_BYTES:
        raise WireError(f"a message of {len(data)} bytes is over the limit of {MAX_MESSAGE_BYTES}")
    kind: Literal["connect", "sync"] | None = None
    addresses: list[bytes] = []
    for tag, number, value in read_fields(data):
        if tag == 0x08:
            if number not in (_CONNECT, _SYNC):
                raise WireError(f"a message of type {number} is not known")
            kind = "connect" if number == _CONNECT else "sync"
        elif tag == 0x12:
            addresses.append(value)
    if kind is None:
        raise WireError("a message does not say what it is")
    return HolePunch(kind, tuple(str(a) for a in decode_all(addresses[:MAX_ADDRESSES])))
