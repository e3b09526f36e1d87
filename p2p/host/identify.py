"""What the peer of a session says by identify: asked once, and remembered with the session."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
import trio

from p2p.overlay import OverlayError
from p2p.reach.identify import identify as ask

if TYPE_CHECKING:
    from p2p.host.sessions import HostSession
    from p2p.reach.identify_wire import Identified

TIMEOUT = 5.0

_log = structlog.get_logger("p2p.host")


async def identify(session: HostSession) -> Identified | None:
    """Return what the peer of a session says of itself and of this node; None if it does not. Asks once."""
    if session.identified is None:
        try:
            with trio.fail_after(TIMEOUT):
                session.identified = await ask(session)
        except (OverlayError, trio.TooSlowError) as error:
            _log.debug("a peer does not identify itself", peer=session.peer, error=repr(error))
    return session.identified


async def protocols_of(session: HostSession) -> tuple[str, ...]:
    """Return the protocol ids that the peer of a session says it serves; empty if it does not say."""
    identified = await identify(session)
    return () if identified is None else tuple(sorted(identified.protocols))
