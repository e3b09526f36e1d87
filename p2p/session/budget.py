"""`MemoryBudget`: what all sessions of a node together may promise to receive, hold unread, and queue to send."""

from __future__ import annotations

DEFAULT_LIMIT_BYTES = 256 * 2**20
MAX_SHARE = 0.5
"""Of what is left, how much one request may take: the first fast stream must not starve the next."""


class MemoryBudget:
    """Counts bytes of buffers: those held unread or unsent, and growth of windows that was promised.

    Every stream's first 256 KiB are promised by yamux itself and are not asked for; what of them is really held
    counts. When the budget is used up, windows stop growing and shrink as they are read, and new streams of peers
    are refused. Not a hard limit on memory: peers may still fill what they were promised before. What waits to be
    sent is counted apart, since whoever reads nothing must not have the streams of others refused.

    Args:
        limit: bytes.
    """

    def __init__(self, limit: int = DEFAULT_LIMIT_BYTES) -> None:
        self.limit = limit
        self.held = 0
        """Bytes received and not read yet."""
        self.reserved = 0
        """Bytes that windows have grown by."""
        self.queued = 0
        """Bytes that wait to be sent."""

    def __repr__(self) -> str:
        return f"<MemoryBudget {self.held} held, {self.queued} queued and {self.reserved} reserved of {self.limit}>"

    @property
    def left(self) -> int:
        """Return how many bytes are free; not below zero."""
        return max(0, self.limit - self.held - self.reserved)

    @property
    def tight(self) -> bool:
        """Return whether less than an eighth is free, so that windows should shrink."""
        return self.left < self.limit // 8

    @property
    def exhausted(self) -> bool:
        """Return whether nothing is free, so that new streams have to be refused."""
        return self.held + self.reserved >= self.limit

    @property
    def crowded(self) -> bool:
        """Return whether so much waits to be sent that each stream may add only little."""
        return self.queued >= self.limit // 2

    def reserve(self, count: int) -> bool:
        """Take `count` bytes for a window's growth, if that leaves enough to others."""
        if count > self.left * MAX_SHARE:
            return False
        self.reserved += count
        return True

    def release(self, count: int) -> None:
        """Give back what `reserve` took."""
        self.reserved -= count
