"""Happy eyeballs: several addresses of one peer, tried one after the other without waiting for each to fail.

`Race` decides, without I/O: the next target starts when the last one has had a quarter of a second, or at once when
one has failed; whoever is there first ends it, so that a success waits for nothing. `in_order` sorts: direct before
relayed, and IPv4 and IPv6 in turn, beginning with the likeliest. `run` drives a race.

Source: RFC 8305, sections 4 and 5.
"""

from __future__ import annotations

import errno
import math
import os
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec
import trio

from p2p.host.tcp import Place
from p2p.overlay import OverlayError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

STAGGER = 0.25
"""Seconds between two starts while nothing fails (RFC 8305's recommended delay)."""
MAX_RUNNING = 6
"""Attempts under way at once."""

T = TypeVar("T")
R = TypeVar("R")


class Target(msgspec.Struct, frozen=True):
    """Something to try."""

    address: str
    """As it was told: a multiaddr."""
    place: Place | None
    """Where to dial; None for an address that leads through a relay."""


class Race(Generic[T]):
    """Which of several targets to try when.

    Args:
        targets: in the order of preference.
    """

    def __init__(self, targets: Iterable[T]) -> None:
        self.failures: list[tuple[T, str]] = []
        """What failed, and why."""
        self._waiting = deque(targets)
        self._running = 0
        self._next = -math.inf

    @property
    def lost(self) -> bool:
        """Return whether everything has failed."""
        return not self._waiting and not self._running

    def start(self, now: float) -> T | None:
        """Return what to try now, if anything; to be called until it returns None."""
        if not self._waiting or now < self._next or self._running >= MAX_RUNNING:
            return None
        self._running += 1
        self._next = now + STAGGER
        return self._waiting.popleft()

    def failed(self, target: T, reason: str) -> None:
        """Note that a target failed: the next may start at once."""
        self._running -= 1
        self._next = -math.inf
        self.failures.append((target, reason))

    def next_event(self) -> float:
        """Return when `start` may next return something, if nothing fails."""
        return self._next if self._waiting and self._running < MAX_RUNNING else math.inf


def in_order(targets: Sequence[Target]) -> list[Target]:
    """Return the targets in the order to try them; those given first are the likeliest of their kind."""
    seen: set[object] = set()
    families: dict[int, deque[Target]] = {}
    relayed: list[Target] = []
    for target in targets:
        key = target.place or target.address
        if key in seen:
            continue
        seen.add(key)
        if target.place is None:
            relayed.append(target)
        else:
            families.setdefault(target.place.version, deque()).append(target)
    direct: list[Target] = []
    while any(families.values()):
        direct += [family.popleft() for family in families.values() if family]
    return direct + relayed


async def run(
    race: Race[T], attempt: Callable[[T], Awaitable[R]], drop: Callable[[R], None]
) -> tuple[T, R] | None:
    """Return the first target that `attempt` succeeds with, and what it returned; None when all have failed.

    Args:
        attempt: what it raises, other than a cancellation, is a failure.
        drop: gets what a second success returned, or the first one when the caller was cancelled.
    """
    won: list[tuple[T, R]] = []
    news = trio.Event()

    async def attempt_one(target: T) -> None:
        try:
            result = await attempt(target)
        except Exception as error:
            race.failed(target, _reason(error))
        else:
            if won:
                drop(result)
            else:
                won.append((target, result))
                nursery.cancel_scope.cancel()
        news.set()

    try:
        async with trio.open_nursery() as nursery:
            while not race.lost and not won:
                news = trio.Event()
                while (target := race.start(trio.current_time())) is not None:
                    nursery.start_soon(attempt_one, target)
                with trio.move_on_at(race.next_event()):
                    await news.wait()
    except BaseException:
        for _, result in won:
            drop(result)
        raise
    return won[0] if won else None


def _reason(error: Exception) -> str:
    if isinstance(error, trio.TooSlowError):
        return "nobody answered in time"
    if isinstance(error, OSError) and error.errno is not None and error.errno in errno.errorcode:
        return os.strerror(error.errno)  # what trio adds is the address, which whoever reads this knows
    if isinstance(error, OSError | OverlayError):
        return str(error) or type(error).__name__
    return repr(error)
