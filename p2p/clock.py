"""The node's time: the only code that reads the process's clock.

Everything else is given a `Clock`, so that the same code runs on virtual time. Sleeping and timeouts go
through trio, whose own clock a simulation replaces; `Clock` only answers "what time is it".
"""

from __future__ import annotations

import time
from typing import Protocol

NANOSECONDS = 1_000_000_000


class Clock(Protocol):
    """Tells the time."""

    def utc_ns(self) -> int:
        """Return nanoseconds since the Unix epoch, UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds since an arbitrary start; never goes back."""
        ...


class SystemClock:
    """The machine's clock."""

    def utc_ns(self) -> int:
        return time.time_ns()

    def monotonic(self) -> float:
        return time.monotonic()
