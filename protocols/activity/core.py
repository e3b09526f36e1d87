"""The life of a provider's activity, without I/O: what reports, silence and exits make of its state.

The supervisor reports state and usage; the node watches for silence. `Tracked` holds what is known of one
activity and says what to do; `now` is the monotonic clock, in seconds.
"""

from __future__ import annotations

import enum
import math
from typing import Final

import msgspec

from protocols.activity.messages import ActivityState, State

UNRESPONSIVE_AFTER: Final = 5.0
"""Seconds without a usage report until the activity is called unresponsive (the Golem daemon's limit)."""
DESTROY_AFTER: Final = 10.0
"""Seconds without a usage report until it is destroyed (the Golem daemon's limit)."""

NEW: Final = ActivityState((State.NEW, None))


class Watch(enum.Enum):
    """What the silence of a supervisor calls for."""

    NOTHING = enum.auto()
    UNRESPONSIVE = enum.auto()
    """It has just become unresponsive: tell whoever asks."""
    DESTROY = enum.auto()
    """It has been silent for too long: end it."""


class Tracked:
    """One activity on the provider's side."""

    def __init__(self, activity_id: str, agreement_id: str, requestor: str, now: float) -> None:
        self.activity_id = activity_id
        self.agreement_id = agreement_id
        self.requestor = requestor
        self.state = NEW
        self.usage: tuple[float, ...] = ()
        self._heard = now
        self._reported = NEW

    @property
    def alive(self) -> bool:
        """Whether it is not terminated."""
        return self.state.state[0] is not State.TERMINATED

    def on_state(self, now: float, state: ActivityState) -> bool:
        """Take a state report; return whether the state changed.

        Terminated is final: a late report of a supervisor that was given up changes nothing.
        """
        self._heard = now
        if not self.alive or state == self.state:
            return False
        self.state = self._reported = state
        return True

    def on_usage(self, now: float, usage: tuple[float, ...]) -> bool:
        """Take a usage report; return whether it counts. It is a sign of life either way.

        Usage only grows: a sample in which a counter fell is not taken, for a bill must not shrink, nor one
        that is no bill at all (another number of counters, infinite, negative).
        """
        if not self.alive:
            return False
        self._heard = now
        if self.state.state[0] is State.UNRESPONSIVE:
            self.state = self._reported
        if not all(math.isfinite(value) and value >= 0 for value in usage):
            return False
        if self.usage and (
            len(usage) != len(self.usage)
            or any(new < old for new, old in zip(usage, self.usage, strict=True))
        ):
            return False
        self.usage = usage
        return True

    def on_end(self, reason: str) -> bool:
        """Take its end, by exit or by giving up; return whether it was alive."""
        if not self.alive:
            return False
        self.state = ActivityState((State.TERMINATED, None), reason=reason)
        return True

    def watch(self, now: float) -> Watch:
        """Look at the clock. Who has not begun yet may be silent: its creation has a limit of its own."""
        silence = now - self._heard
        if not self.alive or self.state == NEW:
            return Watch.NOTHING
        if silence >= DESTROY_AFTER:
            return Watch.DESTROY
        if silence >= UNRESPONSIVE_AFTER and self.state.state[0] is not State.UNRESPONSIVE:
            self.state = msgspec.structs.replace(self.state, state=(State.UNRESPONSIVE, None))
            return Watch.UNRESPONSIVE
        return Watch.NOTHING
