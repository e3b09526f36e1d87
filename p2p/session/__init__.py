"""Sessions: Noise XX and yamux over any byte stream, wire-compatible with libp2p.

    identity = NoiseIdentity(Secp256k1Identity(key.secret), entropy)
    session = await upgrade(stream, identity, initiator=True, entropy=entropy, budget=budget)
    nursery.start_soon(session.run, on_stream)

`noise`, `records`, `multistream`, `yamux` are sans-IO; `wire`, `stream`, `connection` and `upgrade` drive them.
Knows nothing of addresses, of dialling, or of who may connect: that is the host's.
"""

from p2p.session.budget import MemoryBudget
from p2p.session.connection import Session
from p2p.session.errors import (
    BothSpokeFirst,
    HandshakeFailed,
    ProtocolError,
    SessionEnded,
    SessionError,
    TooManyStreams,
)
from p2p.session.identity import Ed25519Identity, IdentityKey, PeerKey, Secp256k1Identity
from p2p.session.noise import NoiseIdentity
from p2p.session.stream import MuxedStream
from p2p.session.upgrade import upgrade
from p2p.session.yamux import YamuxSettings

__all__ = [
    "BothSpokeFirst",
    "Ed25519Identity",
    "HandshakeFailed",
    "IdentityKey",
    "MemoryBudget",
    "MuxedStream",
    "NoiseIdentity",
    "PeerKey",
    "ProtocolError",
    "Secp256k1Identity",
    "Session",
    "SessionEnded",
    "SessionError",
    "TooManyStreams",
    "YamuxSettings",
    "upgrade",
]
