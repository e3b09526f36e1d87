"""How much of peers' calls is in work, counted for each peer and for all. No I/O.

A few peers that let all of their calls hang can use up what there is for all. So a peer that has little in work is
never refused for what others have: the bound for all is passed by so much for each, at most.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2p.bus.api import Busy

if TYPE_CHECKING:
    from collections.abc import Sequence

CALLS_OF_RIGHT = 4
"""Calls that a peer may have in work, however many others have."""
BYTES_OF_RIGHT = 128 * 1024
"""Bytes that a peer's calls may hold, however much those of others do."""


class Work:
    """How much is in work, and how much may be."""

    def __init__(self, max_calls: int, max_bytes: int) -> None:
        self.max_calls = max_calls
        self.max_bytes = max_bytes
        self.calls = 0
        self.bytes = 0
        """Of the calls' requests, and of answers that were not taken yet."""

    def check(self, *, calls: int = 0, size: int = 0, of: Work | None = None) -> None:
        """Refuse what would be too much. Raises Busy.

        Args:
            of: what the peer has in work whose call it is, where this is what all have.
        """
        if self.calls + calls > self.max_calls and not (of and of.calls + calls <= CALLS_OF_RIGHT):
            raise Busy(f"{self.max_calls} calls are in work here already; try again later")
        if self.bytes + size > self.max_bytes and not (of and of.bytes + size <= BYTES_OF_RIGHT):
            raise Busy(f"{self.max_bytes} bytes of calls are in work here already; try again later")


class Held:
    """What one call takes of the bounds that it counts against.

    Args:
        works: those of its peer, and then those of all.
    """

    __slots__ = ("_bytes", "_calls", "_works")

    def __init__(self, *works: Work) -> None:
        self._works = works
        self._calls = 0
        self._bytes = 0

    def take(self, *, calls: int = 0, size: int = 0) -> None:
        """Take so much more of each. Raises Busy, and takes nothing."""
        check(self._works, calls=calls, size=size)
        self.take_over(calls=calls, size=size)

    def take_over(self, *, calls: int = 0, size: int = 0) -> None:
        """Take so much more of each, which was checked before it was begun: one answer may go beyond the bounds."""
        for work in self._works:
            work.calls += calls
            work.bytes += size
        self._calls += calls
        self._bytes += size

    def free(self, size: int) -> None:
        """Give back some bytes of what was taken."""
        for work in self._works:
            work.bytes -= size
        self._bytes -= size

    def give_back(self) -> None:
        """Give back all that was taken."""
        for work in self._works:
            work.calls -= self._calls
            work.bytes -= self._bytes
        self._calls = self._bytes = 0


def check(works: Sequence[Work], *, calls: int = 0, size: int = 0) -> None:
    """Refuse what would be too much for any of `works`: those of a peer, and then those of all. Raises Busy."""
    own: Work | None = None
    for work in works:
        work.check(calls=calls, size=size, of=own)
        own = own or work
