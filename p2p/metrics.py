"""Plain counters for what is hot and not an event: numbers that somebody else may read and show.

No names, no registry, no library: `node.metrics` turns them into Prometheus's form when it is asked. How often
events happened is counted by `p2p.events.EventLog`; gossip counts in its router.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import Final

LATENCY_BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds. The finest is what a call in process takes, the largest is a call's usual timeout."""


class Histogram:
    """How many values were at most each bound, and their sum."""

    def __init__(self, bounds: tuple[float, ...] = LATENCY_BOUNDS) -> None:
        self.bounds = bounds
        self.sum = 0.0
        self._counts = [0] * (len(bounds) + 1)

    def __repr__(self) -> str:
        return f"<Histogram of {sum(self._counts)} values>"

    def observe(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def cumulative(self) -> list[tuple[float, int]]:
        """Return (bound, values at most that), the last bound being infinite."""
        total = 0
        found = []
        for bound, count in zip((*self.bounds, float("inf")), self._counts, strict=True):
            total += count
            found.append((bound, total))
        return found


class Calls:
    """Calls or requests, by labels, and how long those of each first label took.

    Whoever counts takes labels from small fixed sets: they are kept for ever.
    """

    def __init__(self) -> None:
        self.outcomes: Counter[tuple[str, ...]] = Counter()
        self.seconds: dict[str, Histogram] = {}

    def __repr__(self) -> str:
        return f"<Calls {self.outcomes.total()} in {len(self.outcomes)} sorts>"

    def ended(self, seconds: float, *labels: str) -> None:
        """Count one that has ended."""
        self.outcomes[labels] += 1
        self.seconds.setdefault(labels[0], Histogram()).observe(seconds)
