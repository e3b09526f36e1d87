"""Asking a peer by identify what it serves: only to say why it was dropped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
from libp2p.identity.identify.identify import ID as IDENTIFY
from libp2p.identity.identify.pb.identify_pb2 import Identify

from p2p.overlay import OverlayError

if TYPE_CHECKING:
    from p2p.host.sessions import HostSession

MAX_IDENTIFY_BYTES = 65_536
MAX_PROTOCOLS = 256

_log = structlog.get_logger("p2p.host")


async def protocols_of(session: HostSession) -> tuple[str, ...]:
    """Return the protocol ids that the peer of a session says it serves; empty if it does not say."""
    try:
        stream = await session.open_stream(str(IDENTIFY))
        data = bytearray()
        try:
            while len(data) < MAX_IDENTIFY_BYTES and (piece := await stream.receive_some()):
                data += piece
        finally:
            stream.reset()
        message = Identify()
        message.ParseFromString(_without_length(bytes(data)))
    except OverlayError as error:
        _log.debug("a peer does not identify itself", peer=session.peer, error=str(error))
        return ()
    except Exception as error:  # protobuf's errors have no common base that its stubs know
        _log.debug("a peer's identify cannot be read", peer=session.peer, error=repr(error))
        return ()
    return tuple(str(protocol) for protocol in message.protocols[:MAX_PROTOCOLS])


def _without_length(data: bytes) -> bytes:
    """Return the protobuf after its varint length."""
    for index, byte in enumerate(data[:4]):
        if not byte & 0x80:
            return data[index + 1 :]
    return b""
