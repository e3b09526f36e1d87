"""Money: integer wei inside, decimal text at the edge.

One GLM is 10^18 wei. Amounts never pass through floats; the one place where floats become money is pricing,
which has its own rule (`linear_price`).
"""

from __future__ import annotations

import decimal
import math
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

DECIMALS = 18
WEI: int = 10**DECIMALS

_FORM = re.compile(r"[+-]?(\d{1,60})?(\.\d{0,60})?([eE][+-]?\d{1,3})?\Z")
_EXACT = decimal.Context(prec=200, Emax=400, Emin=-400, traps=[decimal.InvalidOperation, decimal.Overflow])


class MoneyError(ValueError):
    """A text or number that is not an amount of money."""


def parse_amount(value: str | float | decimal.Decimal) -> int:
    """Return an amount given in GLM as wei.

    Accepts what JSON may carry: decimal text, or a number.

    Raises:
        MoneyError: not a number, or finer than one wei.
    """
    text = repr(value) if isinstance(value, float) else str(value)
    if not _FORM.match(text) or not any(c.isdigit() for c in text.lower().split("e")[0]):
        raise MoneyError(f"{text[:80]!r} is not an amount: expected decimal text such as 1.25")
    scaled = _EXACT.scaleb(decimal.Decimal(text), DECIMALS)
    wei = int(scaled.to_integral_value(decimal.ROUND_DOWN, _EXACT))
    if scaled != wei:
        raise MoneyError(f"{text} is finer than one wei (18 decimal places)")
    return wei


def format_amount(wei: int) -> str:
    """Return wei as decimal text in GLM, without trailing zeros: `1.5`, `0`, `-0.000000000000000001`."""
    sign, magnitude = ("-", -wei) if wei < 0 else ("", wei)
    whole, fraction = divmod(magnitude, WEI)
    digits = f"{fraction:018d}".rstrip("0")
    return f"{sign}{whole}.{digits}" if digits else f"{sign}{whole}"


def linear_price(coefficients: Sequence[float], usage: Sequence[float]) -> int:
    """Return the price in wei of one activity's usage under the linear pricing model.

    Σ usage_i · coefficient_i plus the last coefficient, charged once per activity. Floats become decimals of
    15 significant digits, then arithmetic is exact and the result is rounded to 18 places (half up): the rule
    that requestors recompute.

    Raises:
        MoneyError: the lengths do not fit, or a number is not finite or negative.
    """
    if len(coefficients) != len(usage) + 1:
        raise MoneyError(
            f"{len(coefficients)} coefficients do not fit {len(usage)} counters and a fixed price"
        )
    total = _significant(coefficients[-1])
    for coefficient, amount in zip(coefficients, usage, strict=False):
        total = _EXACT.add(total, _EXACT.multiply(_significant(coefficient), _significant(amount)))
    return int(_EXACT.scaleb(total, DECIMALS).to_integral_value(decimal.ROUND_HALF_UP, _EXACT))


def _significant(value: float) -> decimal.Decimal:
    if not math.isfinite(value) or value < 0:
        raise MoneyError(f"{value} is neither a price nor a usage")
    return decimal.Decimal(f"{value:.15g}")
