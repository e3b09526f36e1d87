"""Turns the many small steps of a transfer into as many progress events as the script asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from p2p.clock import Clock

Tell = Callable[[int, int | None, str | None, bool], None]
"""Takes the bytes done, the bytes in all if known, a message, and whether it is over."""


class Meter:
    """Progress of one command."""

    def __init__(self, interval: float | None, tell: Tell, clock: Clock) -> None:
        """Make it.

        Args:
            interval: least seconds between two events; none if the script did not ask for any.
            tell: makes an event.
            clock: measures the interval.
        """
        self._interval = interval
        self._tell = tell
        self._clock = clock
        self._next = clock.monotonic()
        self._done = 0
        self._total: int | None = None

    def progress(self, done: int, total: int | None) -> None:
        """Take a step: `transfer.Progress`."""
        self._done, self._total = done, total
        now = self._clock.monotonic()
        if self._interval is not None and now >= self._next:
            self._next = now + self._interval
            self._tell(done, total, None, False)

    def note(self, message: str) -> None:
        """Say something on the way, such as why it begins again."""
        if self._interval is not None:
            self._tell(self._done, self._total, message, False)

    def finished(self, size: int) -> None:
        """All `size` bytes are there."""
        if self._interval is not None:
            self._tell(size, size, None, True)
