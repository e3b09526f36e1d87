"""What can go wrong with a session.

    SessionError(OverlayError)
    ├── ProtocolError       the peer said what its protocol does not allow; its session is over
    │   └── HandshakeFailed     ... before there was a session: wrong key, bad signature, not Noise
    │       └── BothSpokeFirst      ... because both ends dialled each other in the same moment
    ├── SessionEnded        the connection is gone, or is being closed
    └── TooManyStreams      this end has as many streams open as it may

Remote faults are `ProtocolError`s alone. Streams raise `p2p.overlay.StreamBroken`, as every overlay's do.
"""

from __future__ import annotations

from p2p.overlay import OverlayError


class SessionError(OverlayError):
    """Something about a session failed."""


class ProtocolError(SessionError):
    """The peer broke the rules of Noise, yamux or multistream-select."""


class HandshakeFailed(ProtocolError):
    """No session came about: the other end is not who it should be, or does not speak the protocol."""


class BothSpokeFirst(HandshakeFailed):
    """Both ends hold the handshake's first part: their dials met on the way, and made one connection of two."""


class SessionEnded(SessionError):
    """The session is over, or no longer takes new streams."""


class TooManyStreams(SessionError):
    """This end has as many streams open as its settings allow."""
