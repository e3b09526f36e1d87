"""`Dialer`: from the addresses of a peer to a session with it: all of them, direct and through relays, the first wins.

What cannot be dialled at all is skipped with a reason; when nothing worked, the error names each address and what
became of it. The session is proven, not admitted: hello is the overlay's.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Protocol

import trio

from p2p.host.addresses import InvalidAddress, RelayedAddress, is_public, parse_dialable
from p2p.host.race import Race, Target, in_order, run
from p2p.host.tcp import Place, dial, resolve
from p2p.overlay import OverlayError, PeerUnreachable
from p2p.session import BothSpokeFirst, HandshakeFailed, SessionError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from p2p.host.addresses import TcpAddress
    from p2p.host.limits import Gate
    from p2p.host.sessions import HostSession
    from p2p.overlay import Path

DIAL_TIMEOUT = 10.0
"""Seconds from a dial's first packet to a session."""
RESOLVE_TIMEOUT = 5.0
"""Seconds to look names up."""
MAX_TARGETS = 16
"""Places tried for one peer."""


class RelayDialler(Protocol):
    """Makes a byte stream to a peer through a relay: `p2p.reach`'s part."""

    async def __call__(self, address: str) -> trio.abc.HalfCloseableStream:
        """Return a stream to the peer that `address` (`.../p2p-circuit/p2p/<peer>`) names. Raises OverlayError."""
        ...


class Establish(Protocol):
    """Makes a session of a byte stream: the overlay's."""

    async def __call__(
        self,
        stream: trio.abc.HalfCloseableStream,
        *,
        initiator: bool,
        address: str,
        expected: str | None,
        path: Path,
    ) -> HostSession: ...


class Dialer:
    """Dials for one overlay.

    Args:
        establish: makes a session of a byte stream.
        drop: ends a session that nobody wants, with a reason.
        source_for: returns from where to dial a place, if that matters.
        private: whether the name in an address may lead into a private network. Whoever tells of a name decides
            where it leads, today and tomorrow.
        failed: told of each address that nobody, or not the right one, answered at.
    """

    def __init__(
        self,
        establish: Establish,
        drop: Callable[[HostSession, str], None],
        *,
        gate: Gate,
        source_for: Callable[[Place], Place | None],
        private: Callable[[str], bool],
        failed: Callable[[str], None],
    ) -> None:
        self.dial_relayed: RelayDialler | None = None
        """How to get through a relay; None where nobody can."""
        self.outcomes: Counter[str] = Counter()
        """What became of attempts: ok, refused, timeout, unreachable, handshake, lost, other."""
        self._establish = establish
        self._drop = drop
        self._gate = gate
        self._source_for = source_for
        self._private = private
        self._failed = failed

    async def dial(self, addresses: Sequence[str], peer: str | None = None) -> tuple[str, HostSession]:
        """Return the address that worked first, and the session.

        Args:
            addresses: multiaddrs, the likeliest first.
            peer: the name of who has to be there; None takes whoever the addresses name, if they do.

        Raises:
            PeerUnreachable: none of them worked; says what became of each.
        """
        targets, reasons = await self._plan(addresses)
        race = Race(in_order(targets)[:MAX_TARGETS])

        async def attempt(target: Target) -> HostSession:
            try:
                session = await self._attempt(target, peer)
            except (OSError, OverlayError, trio.TooSlowError) as error:
                self.outcomes[_outcome(error)] += 1
                raise
            self.outcomes["ok"] += 1
            return session

        found = await run(race, attempt, lambda session: self._drop(session, "another address was quicker"))
        reasons += [(target.address, reason) for target, reason in race.failures]
        worked = None if found is None else found[0].address
        for address in {address for address, _ in reasons}:
            if address != worked:
                self._failed(address)
        if found is None:
            raise PeerUnreachable("; ".join(f"{address}: {reason}" for address, reason in reasons))
        return found[0].address, found[1]

    async def _plan(self, addresses: Sequence[str]) -> tuple[list[Target], list[tuple[str, str]]]:
        """Return what to try, and why the rest is not tried."""
        found: dict[str, list[Target]] = {}
        reasons: list[tuple[str, str]] = []

        async def look_up(text: str, address: TcpAddress) -> None:
            with trio.move_on_after(RESOLVE_TIMEOUT) as patience:
                try:
                    places = await resolve(address)
                    if address.kind not in ("ip4", "ip6") and not self._private(text):
                        places = [place for place in places if is_public(place.host)]
                        if not places:
                            reasons.append((text, "the name leads into a private network"))
                    found[text] = [Target(text, place) for place in places]
                except OSError as error:
                    reasons.append((text, f"the name is not known: {error}"))
            if patience.cancelled_caught:
                reasons.append((text, "the name was not found in time"))

        async with trio.open_nursery() as nursery:
            for text in addresses:
                try:
                    address = parse_dialable(text)
                except InvalidAddress as error:
                    reasons.append((text, str(error)))
                    continue
                if not isinstance(address, RelayedAddress):
                    nursery.start_soon(look_up, text, address)
                elif self.dial_relayed is None:
                    reasons.append((text, "this node has no way through relays"))
                else:
                    found[text] = [Target(text, None)]
        return [target for text in addresses for target in found.get(text, ())], reasons

    async def _attempt(self, target: Target, peer: str | None) -> HostSession:
        address = parse_dialable(target.address)
        with trio.fail_after(DIAL_TIMEOUT):
            if target.place is not None:
                session = await self._connect(target.place, address.peer_id)
            else:
                assert self.dial_relayed is not None
                stream = await self.dial_relayed(target.address)
                session = await self._establish(
                    stream,
                    initiator=True,
                    address=address.transport(),
                    expected=address.peer_id,
                    path="relayed",
                )
        if peer is not None and peer not in (session.peer, session.wire.peer_id):
            self._drop(session, "somebody else was wanted")
            raise PeerUnreachable(f"{session.peer} is there")
        return session

    async def _connect(self, place: Place, expected: str | None) -> HostSession:
        refused = self._gate.refuses_place(place.host)
        if refused is not None:
            raise PeerUnreachable(refused)
        source = self._source_for(place)
        try:
            return await self._session_over(place, source, expected)
        except BothSpokeFirst:
            if source is None:
                raise
        # It dialled us from its listening port as we dialled it from ours: once more, from a port that it cannot hit.
        return await self._session_over(place, None, expected)

    async def _session_over(self, place: Place, source: Place | None, expected: str | None) -> HostSession:
        stream = await dial(place, source)
        return await self._establish(
            stream, initiator=True, address=str(place), expected=expected, path="direct"
        )


def _outcome(error: Exception) -> str:
    """Return in a word, of those that `Dialer.outcomes` counts, why an attempt failed."""
    match error:
        case trio.TooSlowError():
            return "timeout"
        case ConnectionRefusedError():
            return "refused"
        case OSError():
            return "unreachable"
        case HandshakeFailed():
            return "handshake"
        case SessionError():
            return "lost"
    return "other"
