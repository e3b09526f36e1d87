"""How much of peers' calls is in work, counted for each peer and for all. No I/O."""

from __future__ import annotations

from p2p.bus.api import Busy


class Work:
    """How much is in work, and how much may be."""

    def __init__(self, max_calls: int, max_bytes: int) -> None:
        self.max_calls = max_calls
        self.max_bytes = max_bytes
        self.calls = 0
        self.bytes = 0
        """Of the calls' requests, and of answers that were not taken yet."""

    def check(self, *, calls: int = 0, size: int = 0) -> None:
        """Refuse what would be too much. Raises Busy."""
        if self.calls + calls > self.max_calls:
            raise Busy(f"{self.max_calls} calls are in work here already; try again later")
        if self.bytes + size > self.max_bytes:
            raise Busy(f"{self.max_bytes} bytes of calls are in work here already; try again later")


class Held:
    """What one call takes of the bounds that it counts against."""

    __slots__ = ("_bytes", "_calls", "_works")

    def __init__(self, *works: Work) -> None:
        self._works = works
        self._calls = 0
        self._bytes = 0

    def take(self, *, calls: int = 0, size: int = 0) -> None:
        """Take so much more of each. Raises Busy, and takes nothing."""
        for work in self._works:
            work.check(calls=calls, size=size)
        self.take_over(calls=calls, size=size)

    def take_over(self, *, calls: int = 0, size: int = 0) -> None:
        """Take so much more of each, which was checked before it was begun: one answer may go beyond the bounds."""
        for work in self._works:
            work.calls += calls
            work.bytes += size
        self._calls += calls
        self._bytes += size

    def give_back(self) -> None:
        """Give back all that was taken."""
        for work in self._works:
            work.calls -= self._calls
            work.bytes -= self._bytes
        self._calls = self._bytes = 0
