"""AutoNAT v2's decisions, sans-IO: what a server dials and what it asks for it first; what a client pays.

The guard against amplification: whoever wants an address dialled that is not its own sends more bytes first than a
dial costs the target, a random number of them between 30,000 and 100,000 (libp2p/specs autonat/autonat-v2, as in
go-libp2p). Driven by `dial_back`.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import msgspec

from p2p.reach.judge import place_of

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

LEAST_DATA, MOST_DATA = 30_000, 100_000
MINUTE = 60.0


class ServerLimits(msgspec.Struct, frozen=True):
    """What a server does for others."""

    requests_per_minute: int = 30
    """Of all peers together."""
    per_peer_per_minute: int = 6
    elsewhere_per_minute: int = 6
    """Of all peers together, to dial an address that is not the asker's own."""
    at_once: int = 4


class Refused(msgspec.Struct, frozen=True):
    """Nothing is dialled."""

    busy: bool
    """Whether that is for the moment only; otherwise none of the addresses can be dialled."""


class Dial(msgspec.Struct, frozen=True):
    """Dial this."""

    index: int
    address: str
    data: int
    """Bytes that the client has to send before; 0 for none."""


class DialBackDesk:
    """Decides what a server does."""

    def __init__(self, limits: ServerLimits) -> None:
        self._limits = limits
        self._requests: deque[tuple[float, str]] = deque()
        self._elsewhere: deque[float] = deque()
        self._serving = 0

    def begin(
        self,
        now: float,
        peer: str,
        at: str,
        addresses: Sequence[str | None],
        acceptable: Callable[[str], bool],
        chance: random.Random,
    ) -> Dial | Refused:
        """Decide on a request; a `Dial` has to be ended by `end`.

        Args:
            peer: who asks.
            at: where it is, as this node sees it.
            acceptable: whether an address may be dialled in this network.
        """
        while self._requests and self._requests[0][0] <= now - MINUTE:
            self._requests.popleft()
        while self._elsewhere and self._elsewhere[0] <= now - MINUTE:
            self._elsewhere.popleft()
        limits = self._limits
        if (
            self._serving >= limits.at_once
            or len(self._requests) >= limits.requests_per_minute
            or sum(asker == peer for _, asker in self._requests) >= limits.per_peer_per_minute
        ):
            return Refused(busy=True)
        self._requests.append((now, peer))
        seen = place_of(at)
        for index, address in enumerate(addresses):
            place = place_of(address) if address is not None else None
            if address is None or place is None or "/p2p-circuit" in address or not acceptable(address):
                continue
            data = 0
            if seen is None or seen[1] != place[1]:
                if len(self._elsewhere) >= limits.elsewhere_per_minute:
                    return Refused(busy=True)
                self._elsewhere.append(now)
                data = chance.randrange(LEAST_DATA, MOST_DATA)
            self._serving += 1
            return Dial(index, f"/{place[0]}/{place[1]}/tcp/{place[2]}", data)
        return Refused(busy=False)

    def end(self) -> None:
        """Note that a dial is over."""
        self._serving -= 1
