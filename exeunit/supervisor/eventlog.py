"""The events of one batch, from its start, bounded by bytes. No I/O.

Every event has a number, so a reader may come late, come back, or be slow. When the log is full the oldest output is
dropped; starts and ends of commands stay, since clients count on them. A reader sees by `missed` what it lost.
"""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime
from typing import Final

import msgspec
from msgspec import UNSET

from protocols.activity.messages import RuntimeEvent, RuntimeEventKind, StreamedEvent

_OVERHEAD_BYTES: Final = 400
"""What an event costs beside its text: two structs and a dictionary's entry."""


class EventLog:
    """Events of one batch."""

    def __init__(self, batch_id: str, budget: int) -> None:
        """Make it.

        Args:
            batch_id: goes into every event.
            budget: bytes that the events may take together.
        """
        self._batch_id = batch_id
        self._budget = budget
        self._events: dict[int, tuple[RuntimeEvent, int]] = {}
        self._droppable: deque[int] = deque()
        self._next = 0
        self.size = 0
        """Bytes that the events take now."""

    def append(self, index: int, kind: RuntimeEventKind, utc_ns: int) -> None:
        """Add what happened to command `index`."""
        event = RuntimeEvent(self._batch_id, index, naive_utc(utc_ns), kind)
        output = kind.stdout if kind.stdout is not UNSET else kind.stderr
        droppable = output is not UNSET or kind.progress is not UNSET
        cost = _OVERHEAD_BYTES
        if isinstance(output, (str, tuple)):
            cost += len(output) * (1 if isinstance(output, str) else 8)
        elif not droppable:
            cost += len(msgspec.json.encode(kind))
        self._events[self._next] = (event, cost)
        self.size += cost
        if droppable:
            self._droppable.append(self._next)
        self._next += 1
        while self.size > self._budget and self._droppable:
            _, dropped = self._events.pop(self._droppable.popleft())
            self.size -= dropped

    def after(self, last: int, limit: int) -> list[StreamedEvent]:
        """Return up to `limit` events whose number is greater than `last` (-1 for all)."""
        events: list[StreamedEvent] = []
        missed = 0
        for number in range(max(last, -1) + 1, self._next):
            entry = self._events.get(number)
            if entry is None:
                missed += 1
                continue
            events.append(StreamedEvent(number, entry[0], missed))
            missed = 0
            if len(events) == limit:
                break
        return events


def naive_utc(utc_ns: int) -> datetime:
    """Return a time as runtime events carry it: UTC without saying so."""
    return utc(utc_ns).replace(tzinfo=None)


def utc(utc_ns: int) -> datetime:
    """Return a time as results carry it."""
    seconds, nanoseconds = divmod(utc_ns, 1_000_000_000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=nanoseconds // 1000)
