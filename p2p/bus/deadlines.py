"""`Deadlines`: when which call of a line is over. No I/O; the line's clock is one task.

A cancel scope with a deadline for each call took a sixth of its processor time, on either side. Nearly all calls are
answered long before: what is kept of them here is a number in a heap, which is cleared out when most are over.
"""

from __future__ import annotations

import heapq
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

_SPARE = 64
"""Entries that are over which may stay beside as many as are not."""


class Deadlines:
    """A heap of (seconds, id).

    Args:
        running: the ids that are not over.
    """

    def __init__(self, running: Container[int]) -> None:
        self._running = running
        self._heap: list[tuple[float, int]] = []
        self._most = _SPARE

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def next(self) -> float:
        """Return when the next one is due, if it is not over by then."""
        return self._heap[0][0] if self._heap else math.inf

    def add(self, when: float, key: int) -> bool:
        """Note a deadline; return whether it is the next one now."""
        heap = self._heap
        if len(heap) >= self._most:
            self._heap = heap = [entry for entry in heap if entry[1] in self._running]
            heapq.heapify(heap)
            self._most = 2 * len(heap) + _SPARE
        heapq.heappush(heap, (when, key))
        return heap[0][1] == key

    def due(self, now: float) -> Iterator[int]:
        """Yield those that are due and not over."""
        while self._heap and self._heap[0][0] <= now:
            _, key = heapq.heappop(self._heap)
            if key in self._running:
                yield key
