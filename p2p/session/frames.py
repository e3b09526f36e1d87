"""yamux's frames: a header of twelve bytes, and after a DATA header its payload.

Source: https://github.com/hashicorp/yamux/blob/master/spec.md
"""

from __future__ import annotations

import struct

YAMUX_PROTOCOL = "/yamux/1.0.0"

DATA, WINDOW_UPDATE, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8
NORMAL, PROTOCOL_ERROR, INTERNAL_ERROR = range(3)
"""What GO_AWAY says."""

INITIAL_WINDOW = 262_144
HEADER_BYTES = 12

HEADER = struct.Struct("!BBHII")
"""Version (0), type, flags, stream id, and length or increment or value."""


def frame(kind: int, flags: int, stream_id: int, value: int) -> bytes:
    """Return a header; for DATA the payload follows it."""
    return HEADER.pack(0, kind, flags, stream_id, value)
