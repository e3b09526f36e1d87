"""How often a peer may ask: a token bucket for each, and a bound on how many are remembered."""

from __future__ import annotations

from collections import OrderedDict

from protocols.market.errors import LimitReached


class RateLimit:
    """So many at once, and so many a second after that, for each peer.

    Args:
        per_second: how fast a peer's allowance grows.
        burst: how much it grows to.
        peers: how many peers are remembered; the longest unseen is forgotten, which gives it a full allowance.
    """

    def __init__(self, per_second: float, burst: float, *, peers: int = 10_000) -> None:
        self._per_second = per_second
        self._burst = burst
        self._peers = peers
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def spend(self, peer: str, now: float, what: str) -> None:
        """Take one from the peer's allowance.

        Args:
            now: monotonic seconds.
            what: what is limited, for the message.

        Raises:
            LimitReached: there is none left.
        """
        left, when = self._left.pop(peer, (self._burst, now))
        left = min(self._burst, left + (now - when) * self._per_second)
        if left >= 1:
            self._left[peer] = (left - 1, now)
        else:
            self._left[peer] = (left, now)
            raise LimitReached(f"too many {what}: at most {self._per_second:g} a second; try again later")
        if len(self._left) > self._peers:
            self._left.popitem(last=False)
