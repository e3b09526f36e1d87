"""What peers did wrong, and what follows from it. Faults cost points; points halve each minute.

Only faults count: nothing that a peer does well buys it the right to misbehave. A peer's points stay when it
leaves, so that reconnecting does not clear them.
"""

from __future__ import annotations

import enum

HALF_LIFE = 60.0
"""Seconds until half of a peer's points are forgiven."""


class Fault(enum.Enum):
    """What a peer can do wrong; the value is its name in counters."""

    BAD_FRAME = "bad_frames"
    FORGED = "forged"
    OVERSIZED = "oversized"
    REJECTED = "rejected"
    EARLY_GRAFT = "early_grafts"
    BAD_SYNC = "bad_syncs"


POINTS = {
    Fault.BAD_FRAME: 25.0,  # no correct software sends one
    Fault.FORGED: 10.0,
    Fault.OVERSIZED: 10.0,
    Fault.REJECTED: 10.0,  # the forwarder should have validated; clocks and versions may differ a little
    Fault.EARLY_GRAFT: 5.0,  # a peer that restarted has forgotten its backoff
    Fault.BAD_SYNC: 25.0,
}


class Standing(enum.IntEnum):
    """How a peer is treated, from its points. Ordered: higher is better."""

    IGNORED = 0
    """Nothing is read from it nor sent to it."""
    OUTSIDE = 1
    """Not in the mesh, and its IHAVEs are not followed; what it sends is judged as ever."""
    GOOD = 2


LIMITS = ((60.0, Standing.IGNORED), (15.0, Standing.OUTSIDE))
"""Points from which a standing applies, worst first: two bad records within a minute, or seven."""

SENTENCE = 120.0
"""Points of a peer at the moment when it comes to be ignored: it stays so for a minute at least."""


class Scores:
    """Points of each peer. `now` is monotonic seconds."""

    def __init__(self, max_peers: int) -> None:
        self._max_peers = max_peers
        self._points: dict[str, tuple[float, float]] = {}
        """Peer → points at a time; the one blamed last stands last."""

    def blame(self, now: float, peer: str, fault: Fault) -> None:
        """Add the points of `fault`."""
        before = self.standing(now, peer)
        points = self.points(now, peer) + POINTS[fault]
        if points >= LIMITS[0][0] and before is not Standing.IGNORED:
            points = max(points, SENTENCE)
        self._points.pop(peer, None)
        if len(self._points) >= self._max_peers:
            del self._points[next(iter(self._points))]
        self._points[peer] = (points, now)

    def points(self, now: float, peer: str) -> float:
        """Return what is left of a peer's points."""
        if peer not in self._points:
            return 0.0
        points, since = self._points[peer]
        return float(points * 0.5 ** ((now - since) / HALF_LIFE))

    def standing(self, now: float, peer: str) -> Standing:
        """Return how `peer` is to be treated."""
        if peer in self._points:
            points = self.points(now, peer)
            for limit, standing in LIMITS:
                if points >= limit:
                    return standing
        return Standing.GOOD

    def forgive(self, now: float) -> None:
        """Forget peers of whom less than one point is left, from the longest unblamed on."""
        for peer in list(self._points):
            if self.points(now, peer) >= 1.0:
                break
            del self._points[peer]
