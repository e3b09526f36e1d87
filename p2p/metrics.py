"""Plain counters for what is hot and not an event: numbers that somebody else may read and show.

No names, no registry, no library: `node.metrics` turns them into Prometheus's form when it is asked. How often
events happened is counted by `p2p.events.EventLog`; gossip counts in its router.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_left
from collections import Counter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

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
        histogram = self.seconds.get(labels[0])
        if histogram is None:
            histogram = self.seconds[labels[0]] = Histogram()
        histogram.observe(seconds)


class Traffic:
    """What one class of streams carried, in bytes of its own; headers and encryption come on top."""

    __slots__ = ("accepted", "opened", "received", "sent")

    def __init__(self) -> None:
        self.sent = 0
        """Bytes taken to be sent."""
        self.received = 0
        """Bytes that were read."""
        self.opened = 0
        """Streams that this node opened."""
        self.accepted = 0
        """Streams that peers opened."""

    def __repr__(self) -> str:
        return f"<Traffic {self.sent} sent, {self.received} received>"


TRAFFIC_CLASSES: Final = ("hello", "bus", "gossip", "sync", "files", "directory", "reach", "stock", "other")

_OWN_CLASSES: Final = {
    "hello": "hello", "bus": "bus", "sync": "sync", "files": "files", "kad": "directory"
}  # fmt: skip
_FOREIGN_CLASSES: Final = (("/meshsub/", "gossip"), ("/libp2p/", "reach"), ("/ipfs/", "stock"))


class TrafficTable:
    """The traffic of one node's streams, by a small fixed set of classes."""

    def __init__(self) -> None:
        self.by_class = {name: Traffic() for name in TRAFFIC_CLASSES}

    def of(self, protocol: str) -> Traffic:
        """Return the traffic that streams of `protocol` belong to."""
        return self.by_class[traffic_class(protocol)]


def traffic_class(protocol: str) -> str:
    """Return the class of a protocol id: what is not known is `other`."""
    parts = protocol.split("/", 4)
    if len(parts) == 5 and parts[1] == "golem-p2p":
        return _OWN_CLASSES.get(parts[3], "other")
    return next((name for prefix, name in _FOREIGN_CLASSES if protocol.startswith(prefix)), "other")


@dataclasses.dataclass(frozen=True)
class HostFigures:
    """How much a node's sessions hold and have carried, at a moment."""

    connections: int
    """Connections there are, handshakes included."""
    handshakes: int
    """Inbound handshakes under way."""
    streams: int
    """Streams that are open."""
    memory_limit: int
    """Bytes that all sessions together may promise to receive and hold unread."""
    memory_held: int
    """Bytes received and not read."""
    memory_reserved: int
    """Bytes that windows have grown by."""
    traffic: Mapping[str, Traffic]
    """By class, since the start."""
    dials: Mapping[str, int]
    """Attempts to dial an address, by outcome, since the start."""
