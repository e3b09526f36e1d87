"""What allocations may hold and spend. Amounts are wei.

An allocation's invariant is total = spent + remaining. What is reserved of a wallet is what its live
allocations have left, and what was accepted and has not left the wallet yet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocols.ground.money import format_amount
from protocols.payment.errors import BadRequest, NotEnoughFunds

if TYPE_CHECKING:
    from collections.abc import Iterable

    from protocols.payment.records import Allocation

YEAR_NS = 365 * 24 * 3600 * 1_000_000_000
DEFAULT_LIFE_NS = 10 * YEAR_NS
"""How long an allocation without a timeout lives; clients expect it."""


def reserved(allocations: Iterable[Allocation], owed_wei: int) -> int:
    """Return what of a wallet is spoken for.

    An allocation over a negative total (clients may ask for one) reserves nothing, rather than freeing funds.
    """
    return sum(max(0, allocation.remaining_wei) for allocation in allocations) + owed_wei


def spend(allocation: Allocation, amount: int) -> int:
    """Return what is spent of an allocation after `amount` more. Raises NotEnoughFunds."""
    if amount > 0 and amount > allocation.remaining_wei:
        raise NotEnoughFunds(format_amount(allocation.remaining_wei), format_amount(amount))
    return allocation.spent_wei + amount


def check_amendment(allocation: Allocation, total_wei: int, timeout_ns: int, now_ns: int) -> None:
    """Refuse an amendment that cannot be. Raises BadRequest, in words that clients know."""
    if timeout_ns < now_ns:
        raise BadRequest("New allocation timeout is in the past")
    if total_wei < allocation.spent_wei:
        raise BadRequest("New allocation would be smaller than the already spent amount")


def check_purpose(allocation: Allocation, platform: str, payer_addr: str) -> None:
    """Refuse to pay a document from an allocation of another platform or wallet. Raises BadRequest."""
    if allocation.platform != platform:
        raise BadRequest(
            f"Allocation {allocation.allocation_id} is for {allocation.platform}, the document for {platform}"
        )
    if allocation.address != payer_addr:
        raise BadRequest(
            f"Allocation {allocation.allocation_id} pays from {allocation.address}, "
            f"but the agreement names {payer_addr} as payer"
        )
