"""The link model: when what is sent arrives, and between whom nothing arrives at all.

Sans-IO: `now` and the random generator are arguments. It models what a reliable session shows of the network
below it: a lost packet is a delay (its retransmission), a lost connection is a broken session. Order within
one direction is kept, as TCP keeps it. Called by `p2p.testing.network.session`; knows no streams.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable

    from p2p.identity import NodeId

MIN_RETRANSMISSION = 0.2
"""Seconds: the least retransmission timeout of Linux's TCP (`TCP_RTO_MIN`)."""


class Link(msgspec.Struct, frozen=True):
    """What it is like to send from one node to another."""

    latency: float = 0.02
    """Seconds one way."""
    jitter: float = 0.0
    """Up to this many seconds more, uniformly distributed."""
    bandwidth: float = math.inf
    """Bytes a second, each way."""
    loss: float = 0.0
    """Chance that a segment is lost and has to be sent again (0 to 1, 1 excluded)."""
    breaks: float = 0.0
    """Chance, for each segment sent, that the connection is lost with it."""


LinkSource = Link | Callable[["NodeId", "NodeId"], Link]
"""One link for all pairs, or a function of (from, to), such as a latency map."""


class Direction:
    """One session's way from one node to another: first in, first out."""

    def __init__(self, link: Link, chance: random.Random) -> None:
        self._link = link
        self._chance = chance
        self._free_at = -math.inf
        self._last_arrival = -math.inf

    def arrival(self, now: float, size_bytes: int) -> float | None:
        """Return when a segment sent at `now` arrives, or None when the connection is lost with it."""
        link = self._link
        if link.breaks and self._chance.random() < link.breaks:
            return None
        departed = max(now, self._free_at) + size_bytes / link.bandwidth
        self._free_at = departed
        delay = link.latency
        if link.jitter:
            delay += self._chance.random() * link.jitter
        while link.loss and self._chance.random() < link.loss:
            delay += max(MIN_RETRANSMISSION, 2 * link.latency)
        self._last_arrival = max(self._last_arrival, departed + delay)
        return self._last_arrival

    def stall(self, until: float) -> None:
        """Let nothing depart before `until`."""
        self._free_at = max(self._free_at, until)


class Links:
    """Which link lies between whom, and which of them are down."""

    def __init__(self, source: LinkSource, chance: random.Random) -> None:
        self._source = source
        self._chance = chance
        self._overrides: dict[tuple[NodeId, NodeId], Link] = {}
        self._cut: set[frozenset[NodeId]] = set()
        self._groups: dict[NodeId, int] = {}
        self._isolated: set[NodeId] = set()
        self._closed_inbound: set[NodeId] = set()
        self._refusals: dict[NodeId, int] = {}

    def link(self, source: NodeId, target: NodeId) -> Link:
        """Return the link from `source` to `target`."""
        override = self._overrides.get((source, target))
        if override is not None:
            return override
        return self._source if isinstance(self._source, Link) else self._source(source, target)

    def direction(self, source: NodeId, target: NodeId) -> Direction:
        """Return a new session's way from `source` to `target`."""
        return Direction(self.link(source, target), self._chance)

    def set(self, a: NodeId, b: NodeId, link: Link) -> None:
        """Give sessions that begin from now on between `a` and `b` this link, both ways."""
        self._overrides[a, b] = self._overrides[b, a] = link

    def is_up(self, a: NodeId, b: NodeId) -> bool:
        """Return whether anything passes between `a` and `b`."""
        return (
            frozenset((a, b)) not in self._cut
            and self._groups.get(a, -1) == self._groups.get(b, -1)
            and a not in self._isolated
            and b not in self._isolated
        )

    def may_dial(self, target: NodeId) -> bool:
        """Return whether `target` accepts a dial now; uses up one refusal if some are set."""
        if target in self._closed_inbound:
            return False
        left = self._refusals.get(target, 0)
        if left:
            self._refusals[target] = left - 1
        return not left

    def cut(self, a: NodeId, b: NodeId) -> None:
        """Let nothing pass between `a` and `b`."""
        self._cut.add(frozenset((a, b)))

    def mend(self, a: NodeId, b: NodeId) -> None:
        """Undo `cut`."""
        self._cut.discard(frozenset((a, b)))

    def partition(self, *groups: Iterable[NodeId]) -> None:
        """Let nothing pass between different groups; nodes in none of them form a group of their own."""
        self._groups = {node: index for index, group in enumerate(groups) for node in group}

    def isolate(self, node: NodeId) -> None:
        """Cut `node` off from everyone."""
        self._isolated.add(node)

    def heal(self) -> None:
        """Undo every `cut`, `partition` and `isolate`."""
        self._cut.clear()
        self._groups.clear()
        self._isolated.clear()

    def close_inbound(self, node: NodeId, *, closed: bool = True) -> None:
        """Make `node` undiallable, like one behind NAT; its own dials work."""
        (self._closed_inbound.add if closed else self._closed_inbound.discard)(node)

    def refuse_dials(self, node: NodeId, count: int) -> None:
        """Let the next `count` dials to `node` fail."""
        self._refusals[node] = count
