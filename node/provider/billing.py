"""When a provider bills, without I/O: the schedule of debit notes, and what an agreement owes in the end.

Notes of an agreement are due at its approval time plus whole intervals; a missed one is skipped, not caught up
in a burst. A note is payable (carries a due date) only if a payment timeout was negotiated and that long has
passed since the last payable one; the last note of an activity always is. Both count from the approval, for
either party could lie about a note's own time. (Golem's provider agent, reference §8.8.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from node.provider.negotiators import ACCEPT_TIMEOUT, COEFFICIENTS, NOTE_INTERVAL, PAYMENT_TIMEOUT
from protocols.ground.money import linear_price
from protocols.ground.times import SECOND

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DEFAULT_PAYMENT_DELAY = 24 * 3600
"""Seconds until an invoice is due where no payment timeout was negotiated."""


class Terms(msgspec.Struct, frozen=True):
    """What an agreement says about money."""

    coefficients: tuple[float, ...]
    """GLM per unit of each counter, then per activity."""
    approved_ns: int
    note_interval: float
    """Seconds between debit notes."""
    payment_timeout: float | None
    """Seconds until a payable note must be paid; None if only the invoice is."""
    accept_timeout: float | None
    """Seconds within which a note must be accepted; None if that was not negotiated."""

    @classmethod
    def of(cls, offer: Mapping[str, Any], approved_ns: int, default_interval: float) -> Terms:
        """Read the terms from the agreement's offer properties, which carry what was negotiated."""
        return cls(
            coefficients=tuple(float(c) for c in offer[COEFFICIENTS]),
            approved_ns=approved_ns,
            note_interval=float(offer.get(NOTE_INTERVAL) or default_interval),
            payment_timeout=_optional(offer.get(PAYMENT_TIMEOUT)),
            accept_timeout=_optional(offer.get(ACCEPT_TIMEOUT)),
        )

    def price(self, usage: Sequence[float]) -> int:
        """Return what an activity costs so far, in wei."""
        return linear_price(self.coefficients, usage)

    def next_note_ns(self, now_ns: int) -> int:
        """Return when the next debit note is due: strictly after now."""
        interval = int(self.note_interval * SECOND)
        passed = max(0, now_ns - self.approved_ns) // interval
        return self.approved_ns + (passed + 1) * interval

    def note_due_ns(self, now_ns: int, last_payable_ns: int, *, final: bool) -> int | None:
        """Return the due date of a note issued now, or None if it is not payable."""
        if self.payment_timeout is None:
            return None
        timeout = int(self.payment_timeout * SECOND)
        if final or now_ns - last_payable_ns >= timeout:
            return now_ns + timeout
        return None

    def invoice_due_ns(self, now_ns: int) -> int:
        """Return the due date of an invoice issued now."""
        return now_ns + int((self.payment_timeout or DEFAULT_PAYMENT_DELAY) * SECOND)


def _optional(value: Any) -> float | None:
    return None if value is None else float(value)
