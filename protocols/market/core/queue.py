"""What an agent collects: the events of one offer or demand, each given out once.

Events about agreements and rejections come first, oldest first; then proposals in random order, which spreads
the load of many requestors over many providers. What was taken is held until the taker says what became of
it: `confirm` when the answer was written, `put_back` when it was not.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import msgspec

from protocols.market.events import NegotiationEvent, ProposalArrived

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

MAX_PROPOSALS = 10_000
MAX_NEWS = 1_000


class Batch(msgspec.Struct, frozen=True, eq=False):
    """Events that were taken together."""

    events: tuple[NegotiationEvent, ...]


class EventQueue:
    """The events of one subscription. Full, it refuses new ones."""

    def __init__(self) -> None:
        self._news: deque[NegotiationEvent] = deque()
        self._proposals: list[ProposalArrived] = []
        self._out: set[Batch] = set()

    def put(self, event: NegotiationEvent) -> bool:
        """Add an event; return False if there is no place for it."""
        if isinstance(event, ProposalArrived):
            if len(self._proposals) >= MAX_PROPOSALS:
                return False
            self._proposals.append(event)
            return True
        if len(self._news) >= MAX_NEWS:
            return False
        self._news.append(event)
        return True

    @property
    def has_room(self) -> bool:
        """Whether a further event of any kind would be taken."""
        return len(self._proposals) < MAX_PROPOSALS and len(self._news) < MAX_NEWS

    def take(
        self, limit: int, jitter: random.Random, is_worth: Callable[[NegotiationEvent], bool]
    ) -> Batch | None:
        """Take up to `limit` events; None if there are none. Those that are not worth telling are dropped."""
        events: list[NegotiationEvent] = []
        while self._news and len(events) < limit:
            event = self._news.popleft()
            if is_worth(event):
                events.append(event)
        while self._proposals and len(events) < limit:
            at = jitter.randrange(len(self._proposals))
            self._proposals[at], self._proposals[-1] = self._proposals[-1], self._proposals[at]
            proposal = self._proposals.pop()
            if is_worth(proposal):
                events.append(proposal)
        if not events:
            return None
        batch = Batch(tuple(events))
        self._out.add(batch)
        return batch

    def confirm(self, batch: Batch) -> None:
        """Forget a batch: whoever took it has it. A second settling does nothing."""
        self._out.discard(batch)

    def put_back(self, batch: Batch) -> None:
        """Return a batch to where it was taken from. A second settling does nothing."""
        if batch not in self._out:
            return
        self._out.discard(batch)
        for event in reversed(batch.events):
            if isinstance(event, ProposalArrived):
                self._proposals.append(event)
            else:
                self._news.appendleft(event)
