"""What a line keeps of each request, one's own and the other end's, and what it is told about the other end. No I/O."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import trio

from p2p.bus.api import MAX_BODY_BYTES, BadContent
from p2p.bus.outbox import SEND_AHEAD_BYTES
from p2p.waiting import Waiter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine
    from contextlib import AbstractAsyncContextManager

    from p2p.bus.api import BusError
    from p2p.bus.bounds import Held
    from p2p.bus.frames import Frame, Request
    from p2p.bus.workers import Worker

WINDOW_BYTES = 256 * 1024
"""Items of one streaming call that may be under way unread; the last may go beyond it."""


class LineRules(msgspec.Struct, frozen=True):
    """How much one end lets the other do."""

    answers: bool = True
    """Whether the other end may call; if not, a request of it breaks the rules."""
    streams: bool = True
    """Whether the other end may make streaming calls."""
    piece_bytes: int = MAX_BODY_BYTES
    """Longest body of an answer in one frame; longer ones go in parts, so that others come between."""
    ahead_bytes: int = SEND_AHEAD_BYTES
    """Bytes waiting to be sent above which senders wait."""
    patience: float = math.inf
    """Seconds in which the other end has to take some of what waits to be sent."""
    longest_call: float = math.inf
    """Seconds that a call is worked on at most, whatever it asks for; streaming calls have no such end."""
    trusted: bool = True
    """Whether what the other end does wrong is worth a warning; a stranger decides how often it does."""


class LineOwner(Protocol):
    """What a line asks of whoever holds it."""

    async def answer(self, request: Request) -> bytes:
        """Answer a call. Raises BusError."""
        ...

    def answer_stream(self, request: Request) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Answer a streaming call. Raises BusError."""
        ...

    def receive(self, frame: Frame) -> None:
        """Take any other message, at once and in order. Raises BadContent to drop the line."""
        ...

    def ended(self) -> None:
        """Hear, once, that the line has ended: nothing can be sent any more."""
        ...


class Pending:
    """A request of ours that waits for its answer; one task takes it."""

    __slots__ = ("_arrived", "_error", "_news", "_parts", "called", "ended", "streaming", "window")

    def __init__(self, called: str, *, streaming: bool) -> None:
        self.called = called
        self.streaming = streaming
        self.ended = False
        self.window = WINDOW_BYTES if streaming else 0
        self._arrived: deque[bytes] = deque()
        self._parts: bytearray | None = None
        self._error: BusError | None = None
        self._news = Waiter()

    def put(self, body: bytes) -> None:
        """Take an item."""
        self._arrived.append(body)
        self._news.wake()

    def put_part(self, body: bytes) -> None:
        """Take a piece of the answer. Gathered in one piece, so that many small ones cost no more than few."""
        if self._parts is None:
            self._parts = bytearray()
        self._parts += body
        if len(self._parts) > MAX_BODY_BYTES:
            raise BadContent("an answer longer than any may be")

    def answer(self, body: bytes) -> None:
        """Take the answer, or its last piece."""
        if self._parts is not None:
            self.put_part(body)
            body = bytes(self._parts)
        self.ended = True
        self.put(body)

    def end(self, error: BusError | None = None) -> None:
        """Take the end."""
        if not self.ended:
            self.ended, self._error = True, error
            self._news.wake()

    async def take(self) -> bytes | None:
        """Return the next body, or None at the end."""
        if self._arrived or self.ended:
            await trio.lowlevel.checkpoint()
        while not self._arrived and not self.ended:
            await self._news.wait()
        if self._arrived:
            return self._arrived.popleft()
        if self._error is not None:
            raise self._error
        return None


class Answering:
    """A request of the other end that we are answering."""

    __slots__ = ("address", "credit", "held", "more_credit", "size", "waits_for", "work", "worker")

    work: Coroutine[Any, Any, None]
    """The answer, and what it waits for."""
    waits_for: Any

    def __init__(self, request: Request, worker: Worker) -> None:
        self.address = request.address
        self.size = len(request.body)
        self.worker = worker
        self.held: Held | None = None
        """What it takes of the bounds; None for one that has not had to wait for anything."""
        self.credit = request.credit
        self.more_credit: trio.Event | None = None

    def hold(self, size: int) -> None:
        """Count the answer too. Raises Busy, if it has waited before."""
        if self.held is not None:
            self.held.take(size=size)
        else:
            self.size += size
