"""Asking the peer of a link by identify: where it sees this node, where it listens, what it serves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2p.overlay import StreamBroken
from p2p.protobuf import WireError
from p2p.reach.framing import Framed
from p2p.reach.identify_wire import IDENTIFY, MAX_MESSAGE_BYTES, decode

if TYPE_CHECKING:
    from p2p.reach.host import Link
    from p2p.reach.identify_wire import Identified


async def identify(link: Link) -> Identified:
    """Return what the peer says; the caller bounds the time. Raises OverlayError."""
    stream = await link.open_stream(IDENTIFY)
    try:
        return decode(await Framed(stream, MAX_MESSAGE_BYTES).receive())
    except WireError as error:
        raise StreamBroken(f"{link.peer} does not identify itself: {error}") from error
    finally:
        stream.reset()
