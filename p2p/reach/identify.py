"""Asking a peer by identify: where it sees this node, where it listens, what it serves, what software it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from p2p.overlay import StreamBroken
from p2p.protobuf import WireError
from p2p.reach.framing import Framed
from p2p.reach.identify_wire import IDENTIFY, MAX_MESSAGE_BYTES, decode

if TYPE_CHECKING:
    from p2p.overlay import Stream
    from p2p.reach.identify_wire import Identified


class Askable(Protocol):
    """A session with a peer: a `Link`, or the host's own."""

    @property
    def peer(self) -> str: ...

    async def open_stream(self, protocol: str) -> Stream: ...


async def identify(session: Askable) -> Identified:
    """Return what the peer says, all of it claims; the caller bounds the time. Raises OverlayError."""
    stream = await session.open_stream(IDENTIFY)
    try:
        return decode(await Framed(stream, MAX_MESSAGE_BYTES).receive())
    except WireError as error:
        raise StreamBroken(f"{session.peer} does not identify itself: {error}") from error
    finally:
        stream.reset()
