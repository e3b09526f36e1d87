"""`Observations`: where peers say that they see this node, by identify. Bounded; claims, not facts.

Each admitted peer is asked once, a little after its session began, when nobody waits for the node. Fed by the
overlay, read by `p2p.reach`, which judges what is said.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import msgspec
import trio

from p2p.host.addresses import InvalidAddress, parse_address
from p2p.host.identify import identify
from p2p.host.sessions import HostSession

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from p2p.clock import Clock
    from p2p.discovery import Sessions
    from p2p.host.identify import Identified

ASK_AFTER = 1.0
"""Seconds from a session's beginning."""
ASKERS = 2
MAX_WAITING = 256
"""Sessions that wait to be asked; further ones are not."""
MAX_TELLERS = 256


class Observation(msgspec.Struct, frozen=True):
    """What one peer says of one session."""

    teller: str
    """The peer's name."""
    teller_address: str
    """Where the peer is: a multiaddr."""
    seen: str
    """Where it sees this node: a multiaddr of TCP, without a peer."""
    listening_port: bool
    """Whether the connection has the port that this node listens on: it was dialled from there, or came in there."""
    inbound: bool
    """Whether the peer dialled; then `seen` is what it dialled."""
    at_ns: int
    """When it was said; UTC nanoseconds."""


class Observations:
    """The latest word of each peer, of at most `MAX_TELLERS`; the one that spoke the longest ago is forgotten.

    Args:
        sessions: the overlay's table.
        ports: returns the ports that this node listens on.
    """

    def __init__(
        self, sessions: Sessions[HostSession], ports: Callable[[], Sequence[int]], clock: Clock
    ) -> None:
        self._sessions = sessions
        self._ports = ports
        self._clock = clock
        self._told: dict[str, Observation] = {}
        self._queue, self._waiting = trio.open_memory_channel[HostSession](MAX_WAITING)

    def all(self) -> Sequence[Observation]:
        """Return what is known, the latest last."""
        return list(self._told.values())

    def ask_later(self, session: HostSession) -> None:
        """Have the peer of a session asked, if it is admitted by then."""
        with contextlib.suppress(trio.WouldBlock):
            self._queue.send_nowait(session)

    def add(self, observation: Observation) -> None:
        """Take in what a peer says; it replaces what it said before."""
        self._told.pop(observation.teller, None)
        if len(self._told) >= MAX_TELLERS:
            del self._told[next(iter(self._told))]
        self._told[observation.teller] = observation

    async def run(self) -> None:
        """Ask, until cancelled."""
        async with trio.open_nursery() as nursery:
            for _ in range(ASKERS):
                nursery.start_soon(self._ask)

    async def _ask(self) -> None:
        async for session in self._waiting.clone():
            await trio.sleep_until(session.since + ASK_AFTER)
            if self._sessions.is_admitted(session) and not session.closed:
                identified = await identify(session)
                if identified is not None and session.path == "direct":
                    self._note(session, identified)

    def _note(self, session: HostSession, identified: Identified) -> None:
        try:
            seen = parse_address(identified.observed)
        except InvalidAddress:
            return
        inbound = session.direction == "in"
        self.add(
            Observation(
                teller=session.peer,
                teller_address=session.address,
                seen=seen.transport(),
                listening_port=inbound or session.local_port in self._ports(),
                inbound=inbound,
                at_ns=self._clock.utc_ns(),
            )
        )
