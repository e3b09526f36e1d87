"""Wake-ups for long polls: read, and if there was nothing, sleep until something was committed.

The reader takes a ticket before it reads, so what is committed between the reading and the sleeping is not
missed:

    rows = await poll(signal, read, timeout=5.0)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

T = TypeVar("T")


class Signal:
    """Something happened; whoever waits looks again."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def ticket(self) -> trio.Event:
        """Return an event that the next `notify` sets."""
        return self._event

    def notify(self) -> None:
        """Wake everyone who holds a ticket. Call it after the commit."""
        event, self._event = self._event, trio.Event()
        event.set()


async def poll(signal: Signal, read: Callable[[], Awaitable[Sequence[T]]], *, timeout: float) -> Sequence[T]:
    """Return what `read` gives as soon as that is not empty, or nothing after `timeout` seconds."""
    deadline = trio.current_time() + timeout
    while True:
        ticket = signal.ticket()
        rows = await read()  # outside the timeout: what a destructive read took must be returned
        if rows or trio.current_time() >= deadline:
            return rows
        with trio.move_on_at(deadline):
            await ticket.wait()
