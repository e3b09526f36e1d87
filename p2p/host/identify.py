"""Asking a peer by identify what it serves, and where it sees this node."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import structlog
import trio
from libp2p.identity.identify.identify import ID as IDENTIFY
from libp2p.identity.identify.pb.identify_pb2 import Identify

from p2p.multiaddr import InvalidMultiaddr, decode
from p2p.overlay import OverlayError
from p2p.protobuf import FrameReader, WireError

if TYPE_CHECKING:
    from p2p.host.sessions import HostSession

MAX_IDENTIFY_BYTES = 65_536
MAX_PROTOCOLS = 256
MAX_TEXT = 128
TIMEOUT = 5.0

_log = structlog.get_logger("p2p.host")


class Identified(msgspec.Struct, frozen=True):
    """What a peer said; all of it claims."""

    protocols: tuple[str, ...]
    """What it serves."""
    agent: str
    """What software it is."""
    observed: str
    """Where it sees this node: a multiaddr; empty if it does not say."""


async def identify(session: HostSession) -> Identified | None:
    """Return what the peer of a session says of itself and of this node; None if it does not. Asks once."""
    if session.identified is None:
        try:
            with trio.fail_after(TIMEOUT):
                session.identified = _read(await _ask(session))
        except (OverlayError, WireError, trio.TooSlowError) as error:
            _log.debug("a peer does not identify itself", peer=session.peer, error=repr(error))
        except Exception as error:  # protobuf's errors have no common base that its stubs know
            _log.debug("a peer's identify cannot be read", peer=session.peer, error=repr(error))
    return session.identified


async def protocols_of(session: HostSession) -> tuple[str, ...]:
    """Return the protocol ids that the peer of a session says it serves; empty if it does not say."""
    identified = await identify(session)
    return () if identified is None else identified.protocols


async def _ask(session: HostSession) -> bytes:
    stream = await session.open_stream(str(IDENTIFY))
    reader = FrameReader(MAX_IDENTIFY_BYTES)
    try:
        while piece := await stream.receive_some():
            for message in reader.feed(piece):
                return message
    finally:
        stream.reset()
    raise WireError("it ended before its message was whole")


def _read(data: bytes) -> Identified:
    message = Identify()
    message.ParseFromString(data)
    observed = ""
    if message.observed_addr:
        try:
            observed = str(decode(message.observed_addr))
        except InvalidMultiaddr:
            _log.debug("a peer's observed address cannot be read")
    return Identified(
        protocols=tuple(str(protocol)[:MAX_TEXT] for protocol in message.protocols[:MAX_PROTOCOLS]),
        agent=str(message.agent_version)[:MAX_TEXT],
        observed=observed,
    )
