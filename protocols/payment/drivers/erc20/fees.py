"""What to offer for gas: decided from the chain's recent blocks and the operator's ceiling.

Pure. The ceiling is never passed; when the chain asks more, the answer is an error and the transaction waits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from protocols.payment.drivers.errors import FeeCeiling

if TYPE_CHECKING:
    from protocols.payment.networks import Gas

_BUMP_DIVISOR: Final = 8
"""A replacement pays an eighth more; nodes demand at least 10 % on both fees."""


class Market(msgspec.Struct, frozen=True):
    """What gas costs now."""

    base_fee_wei: int
    """Of the block to come."""
    tips_wei: tuple[int, ...]
    """Median tips of recent blocks."""


class Fees(msgspec.Struct, frozen=True):
    """What a transaction offers per gas."""

    max_fee_wei: int
    priority_fee_wei: int


def offer(market: Market, gas: Gas) -> Fees:
    """Choose the fees of a new transaction.

    The fee bears a doubling of the base fee; the tip is the median of recent blocks, at least the configured
    one.

    Raises:
        FeeCeiling: base fee and least tip are above the ceiling.
    """
    needed = market.base_fee_wei + gas.priority_fee_wei
    if needed > gas.max_fee_wei:
        raise FeeCeiling(needed, gas.max_fee_wei)
    tips = sorted(market.tips_wei)
    tip = max(gas.priority_fee_wei, tips[len(tips) // 2] if tips else 0)
    tip = min(tip, gas.max_fee_wei - market.base_fee_wei)
    return Fees(min(gas.max_fee_wei, 2 * market.base_fee_wei + tip), tip)


def outbid(old: Fees, market: Market, gas: Gas) -> Fees:
    """Choose the fees of a replacement: an eighth more on both, or what a new transaction would offer.

    Raises:
        FeeCeiling: that is above the ceiling.
    """
    least = Fees(_bumped(old.max_fee_wei), _bumped(old.priority_fee_wei))
    if least.max_fee_wei > gas.max_fee_wei:
        raise FeeCeiling(least.max_fee_wei, gas.max_fee_wei)
    fresh = offer(market, gas)
    max_fee = max(least.max_fee_wei, fresh.max_fee_wei)
    return Fees(max_fee, min(max_fee, max(least.priority_fee_wei, fresh.priority_fee_wei)))


def _bumped(fee_wei: int) -> int:
    return fee_wei + -(-fee_wei // _BUMP_DIVISOR) + 1
