"""How far this node's clock is from its peers': the median of what they say at hello. Pure.

A clock that is wrong makes offers look expired, on one side or the other, and nothing else tells: every node finds
itself right. One peer has one voice, so that a few liars move nothing.
"""

from __future__ import annotations

from statistics import median

MAX_VOICES = 256
FEWEST_VOICES = 3
"""Peers that have to have said something: of two, nobody knows which one is wrong."""


class ClockSkew:
    """What the connected peers' clocks say."""

    def __init__(self) -> None:
        self._voices: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"<ClockSkew {self.seconds} by {len(self._voices)} peers>"

    def told(self, peer: str, theirs_ms: int, ours_ns: int) -> None:
        """Take in that a peer's clock said `theirs_ms` when this node's said `ours_ns`; 0 is no word of it."""
        if theirs_ms:
            self._voices.pop(peer, None)
            if len(self._voices) >= MAX_VOICES:  # some may have been gone before they were counted as there
                del self._voices[next(iter(self._voices))]
            self._voices[peer] = theirs_ms / 1e3 - ours_ns / 1e9

    def gone(self, peer: str) -> None:
        """Forget what a peer said."""
        self._voices.pop(peer, None)

    @property
    def seconds(self) -> float | None:
        """Return by how much this node's clock is behind; negative if it is ahead, None if too few have spoken."""
        return median(self._voices.values()) if len(self._voices) >= FEWEST_VOICES else None
