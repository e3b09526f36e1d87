"""What a peer says of itself and of this node by identify (`/ipfs/id/1.0.0`).

Source: libp2p/specs identify. Sans-IO. Errors: `p2p.protobuf.WireError`.
"""

from __future__ import annotations

import msgspec

from p2p.multiaddr import decode_all
from p2p.protobuf import WireError, read_fields

IDENTIFY = "/ipfs/id/1.0.0"
MAX_MESSAGE_BYTES = 65_536
MAX_ADDRESSES = 32
MAX_PROTOCOLS = 256
MAX_PROTOCOL_BYTES = 256
MAX_AGENT = 128
"""Characters of it that are kept."""


class Identified(msgspec.Struct, frozen=True):
    """What a peer says."""

    observed: str = ""
    """Where it sees this node: a multiaddr; empty if it does not say."""
    listening: tuple[str, ...] = ()
    """Where it says that it listens."""
    protocols: frozenset[str] = frozenset()
    """What it says that it serves."""
    agent: str = ""
    """What software it says it is."""


def decode(data: bytes) -> Identified:
    """Read an identify message. Raises WireError."""
    if len(data) > MAX_MESSAGE_BYTES:
        raise WireError(f"an identify message of {len(data)} bytes is over the limit of {MAX_MESSAGE_BYTES}")
    observed, agent, listening, protocols = "", "", list[bytes](), set[str]()
    for tag, _, value in read_fields(data):
        if tag == 0x12:
            listening.append(value)
        elif tag == 0x1A and len(value) <= MAX_PROTOCOL_BYTES and len(protocols) < MAX_PROTOCOLS:
            protocols.add(value.decode("utf-8", "replace"))
        elif tag == 0x22:
            observed = next((str(address) for address in decode_all([value])), "")
        elif tag == 0x32:
            agent = value.decode("utf-8", "replace")[:MAX_AGENT]
    addresses = tuple(str(address) for address in decode_all(listening[:MAX_ADDRESSES]))
    return Identified(observed, addresses, frozenset(protocols), agent)
