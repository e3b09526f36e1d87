"""When debts are paid: before the earliest is due, when enough has come together, or at the cycle's end.

Cycles are fixed points in time, every so many seconds or by a cron line, as operators of the Golem daemon know
them; they bound how long a debt waits. Due dates and sums only bring a payment forward. Pure: `now_ns` comes in.
"""

from __future__ import annotations

import datetime as dt
import itertools
from typing import TYPE_CHECKING, Final

import msgspec

from protocols.payment.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from protocols.payment.core.orders import Debt

SECOND_NS: Final = 1_000_000_000
LEAST_INTERVAL_S: Final = 5.0
_HORIZON_DAYS: Final = 4 * 366
"""How far a cron line is followed: a 29th of February comes within it."""

_FIELDS: Final = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
"""Minute, hour, day of month, month, day of week (0 and 7 are Sunday)."""


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """What decides when a wallet's debts are paid."""

    next_ns: int
    """The cycle's next end."""
    margin_s: float
    """How long before a due date the payment must go out to be confirmed in time."""
    enough_wei: int | None = None
    """The sum at which waiting longer saves nothing; None for no such sum."""


def fire_at(debts: Iterable[Debt], rule: Rule, now_ns: int) -> int | None:
    """Return when an order must be built; in the past means now, None that there is nothing to pay."""
    moments: list[int] = []
    total = 0
    for debt in debts:
        if debt.payable:
            total += debt.amount_wei
            moments.append(min(rule.next_ns, debt.due_ns - int(rule.margin_s * SECOND_NS)))
        else:
            moments.append(max(debt.due_ns, rule.next_ns))
    if not moments:
        return None
    if rule.enough_wei is not None and total >= rule.enough_wei:
        return now_ns
    return min(moments)


def next_end(interval_s: float | None, cron: str | None, last_ns: int, now_ns: int) -> int:
    """Return the first end of a cycle after `now_ns`, for ends that are counted from `last_ns`.

    Raises:
        BadRequest: neither is given, or the cron line makes no sense.
    """
    if interval_s is not None:
        step = int(interval_s * SECOND_NS)
        passed = max(0, (now_ns - last_ns) // step)
        return last_ns + (passed + 1) * step
    if cron is None:
        raise BadRequest("a payment cycle has an interval or a cron line")
    return _next_by_cron(cron, now_ns)


def longest_gap_s(cron: str, now_ns: int) -> float:
    """Return the longest wait between the next ends of a cron line: what a payer may honestly promise."""
    moments = [now_ns]
    for _ in range(8):
        moments.append(_next_by_cron(cron, moments[-1]))
    gaps = [late - early for early, late in itertools.pairwise(moments[1:])]
    return max(gaps) / SECOND_NS


def check_interval(interval_s: float) -> None:
    """Refuse an interval that cannot be kept. Raises BadRequest."""
    if not LEAST_INTERVAL_S <= interval_s <= 366 * 86_400:
        raise BadRequest(f"a payment cycle lasts {LEAST_INTERVAL_S:g} seconds to a year, not {interval_s:g}")


def _next_by_cron(line: str, now_ns: int) -> int:
    minutes, hours, days, months, weekdays = _parse_cron(line)
    any_day, any_weekday = len(days) == 31, len(weekdays) == 7
    start = dt.datetime.fromtimestamp(now_ns // SECOND_NS, dt.UTC).replace(second=0, microsecond=0)
    moment = start + dt.timedelta(minutes=1)
    day = moment.replace(hour=0, minute=0)
    for _ in range(_HORIZON_DAYS):
        on_day, on_weekday = day.day in days, day.isoweekday() % 7 in weekdays
        # As cron has it: of two restricted fields either may match, otherwise the restricted one must.
        fits = (on_day and on_weekday) if any_day or any_weekday else (on_day or on_weekday)
        if day.month in months and fits:
            for hour in sorted(hours):
                for minute in sorted(minutes):
                    candidate = day.replace(hour=hour, minute=minute)
                    if candidate >= moment:
                        return int(candidate.timestamp()) * SECOND_NS
        day += dt.timedelta(days=1)
    raise BadRequest(f"the cron line {line[:80]!r} names no day that ever comes")


def _parse_cron(line: str) -> tuple[frozenset[int], ...]:
    parts = line.split()
    if len(parts) == 6 and parts[0] in ("0", "*"):
        parts = parts[1:]  # a leading field for seconds, which cycles do not need
    if len(parts) != 5:
        raise BadRequest(f"the cron line {line[:80]!r} does not have five fields")
    fields = [_parse_field(part, *bounds) for part, bounds in zip(parts, _FIELDS, strict=True)]
    fields[4] = frozenset(day % 7 for day in fields[4])
    return tuple(fields)


def _parse_field(text: str, least: int, most: int) -> frozenset[int]:
    values: set[int] = set()
    for part in text.split(","):
        span, _, step_text = part.partition("/")
        first, _, last = span.partition("-")
        try:
            step = int(step_text) if step_text else 1
            if span == "*":
                low, high = least, most
            else:
                low = int(first)
                high = int(last) if last else (most if step_text else low)
        except ValueError:
            raise BadRequest(f"the cron field {text[:40]!r} is not understood") from None
        if not least <= low <= high <= most or step < 1:
            raise BadRequest(f"the cron field {text[:40]!r} must be within {least}-{most}")
        values.update(range(low, high + 1, step))
    return frozenset(values)
