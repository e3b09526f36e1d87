"""What is on its way to one node, delivered in order of arrival by one task.

Deliveries are plain functions that must not block: they fill buffers and wake tasks. Used by
`p2p.testing.overlay.MemoryOverlay`, one for each overlay.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, NoReturn

import trio

if TYPE_CHECKING:
    from collections.abc import Callable


class Inbox:
    """A heap of deliveries, by trio time of arrival; equal times keep the order of posting."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._posted = 0
        self._earlier = trio.Event()
        self._open = False

    def post(self, when: float, deliver: Callable[[], None]) -> None:
        """Call `deliver` at `when`; dropped when nobody runs the inbox, as a dead host drops packets."""
        if not self._open:
            return
        self._posted += 1
        heapq.heappush(self._heap, (when, self._posted, deliver))
        if self._heap[0][1] == self._posted:
            self._earlier.set()

    def open(self) -> None:
        """Accept deliveries; `run` has to follow."""
        self._open = True

    def close(self) -> None:
        """Drop what is on its way and accept no more."""
        self._open = False
        self._heap.clear()

    async def run(self) -> NoReturn:
        """Deliver until cancelled."""
        while True:
            self._earlier = trio.Event()
            if not self._heap:
                await self._earlier.wait()
            elif self._heap[0][0] > trio.current_time():
                with trio.move_on_at(self._heap[0][0]):
                    await self._earlier.wait()
            else:
                await trio.lowlevel.checkpoint()
                now = trio.current_time()
                while self._heap and self._heap[0][0] <= now:
                    heapq.heappop(self._heap)[2]()
