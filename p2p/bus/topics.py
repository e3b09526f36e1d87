"""Publish and subscribe within one process: each subscriber has a bounded queue and loses its oldest.

Events are hints ("something changed, look again"): who must miss nothing reads a log kept elsewhere. Used by the
router for the node, and by the door's client for what the node passes on.
"""

from __future__ import annotations

import contextlib
from collections import deque
from typing import TYPE_CHECKING

import structlog
import trio

from p2p.bus.api import MAX_BODY_BYTES, BadContent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from p2p.bus.api import BusError

QUEUE_EVENTS = 256
"""Most events that wait for one subscriber."""
QUEUE_BYTES = 8 * 1024 * 1024
"""Most bytes that wait for one subscriber."""

_log = structlog.get_logger("p2p.bus")


class Subscription:
    """One subscriber's queue; iterate it from one task."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.lost = 0
        """How many events this subscriber was too slow for."""
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._ready = trio.Event()
        self._error: BusError | None = None

    def put(self, body: bytes) -> None:
        """Queue an event; the oldest give way."""
        self._waiting.append(body)
        self._bytes += len(body)
        while len(self._waiting) > QUEUE_EVENTS or self._bytes > QUEUE_BYTES:
            self._bytes -= len(self._waiting.popleft())
            self._count_loss()
        self._ready.set()

    def end(self, error: BusError) -> None:
        """Let the subscriber read what waits, and then raise `error`."""
        self._error = error
        self._ready.set()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        await self._ready.wait()
        if not self._waiting:
            assert self._error is not None
            raise self._error
        body = self._waiting.popleft()
        self._bytes -= len(body)
        if not self._waiting and self._error is None:
            self._ready = trio.Event()
        return body

    def _count_loss(self) -> None:
        self.lost += 1
        if (
            self.lost & (self.lost - 1) == 0
        ):  # said at 1, 2, 4, 8, ...: a storm of events is no storm of log lines
            _log.warning(
                "a subscriber is too slow and loses its oldest events", topic=self.topic, lost=self.lost
            )


class Topics:
    """The subscribers of each topic."""

    def __init__(self) -> None:
        self._subscriptions: dict[str, list[Subscription]] = {}

    def publish(self, topic: str, body: bytes) -> None:
        """Give `body` to every subscriber of `topic`. Raises BadContent if it is too large."""
        if len(body) > MAX_BODY_BYTES:
            raise BadContent(f"an event of {len(body)} bytes on {topic}: at most {MAX_BODY_BYTES}")
        for subscription in self._subscriptions.get(topic, ()):
            subscription.put(body)

    @contextlib.asynccontextmanager
    async def subscribe(self, topic: str) -> AsyncIterator[Subscription]:
        """Listen to `topic` while the block is open."""
        subscription = Subscription(topic)
        self._subscriptions.setdefault(topic, []).append(subscription)
        try:
            yield subscription
        finally:
            remaining = self._subscriptions[topic]
            remaining.remove(subscription)
            if not remaining:
                del self._subscriptions[topic]
