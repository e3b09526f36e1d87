"""`VirtualClock`: the node's clock on trio's virtual time.

Under `trio.testing.MockClock` (or any other trio clock that starts at zero) the nodes of a simulation and the
trio deadlines of their tasks then share one time.
"""

from __future__ import annotations

import trio

from p2p.clock import NANOSECONDS

EPOCH_NS = 1_767_225_600 * NANOSECONDS
"""2026-01-01T00:00:00Z, when a virtual world begins unless told otherwise."""


class VirtualClock:
    """A `p2p.clock.Clock` that reads trio's time. Usable inside a trio run only."""

    def __init__(self, epoch_ns: int = EPOCH_NS) -> None:
        self._epoch_ns = epoch_ns

    def utc_ns(self) -> int:
        return self._epoch_ns + round(trio.current_time() * NANOSECONDS)

    def monotonic(self) -> float:
        return trio.current_time()
