"""Times: nanoseconds since the epoch inside, RFC 3339 text at the edge.

Out: UTC with `Z` and as many fraction digits (0, 3, 6 or 9) as lose nothing, as the Golem daemon writes them.
In: RFC 3339 with a zone and seconds; `t`, `z` and a space as separator are let through.
"""

from __future__ import annotations

import datetime as dt
import re

SECOND = 1_000_000_000
MILLISECOND = 1_000_000
MICROSECOND = 1_000

_FORM = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,18}))?(?:([Zz])|([+-])(\d\d):(\d\d))\Z",
    re.ASCII,
)
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class TimeFormatError(ValueError):
    """A text that is not an RFC 3339 time."""


def format_time(ns: int) -> str:
    """Return the time as `2026-01-02T03:04:05.678Z`."""
    return format_naive_time(ns) + "Z"


def format_naive_time(ns: int) -> str:
    """Return the time without a zone, as some of the Golem daemon's bodies have it."""
    seconds, fraction = divmod(ns, SECOND)
    text = (_EPOCH + dt.timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")
    if fraction == 0:
        return text
    if fraction % MILLISECOND == 0:
        return f"{text}.{fraction // MILLISECOND:03d}"
    if fraction % MICROSECOND == 0:
        return f"{text}.{fraction // MICROSECOND:06d}"
    return f"{text}.{fraction:09d}"


def parse_time(text: str) -> int:
    """Return nanoseconds since the epoch; digits beyond nanoseconds are cut off.

    Raises:
        TimeFormatError: not RFC 3339 with a zone.
    """
    match = _FORM.match(text)
    if match is None:
        raise TimeFormatError(
            f"{text[:64]!r} is not a time: expected RFC 3339 such as 2026-01-02T03:04:05.678Z"
        )
    year, month, day, hour, minute, second = (int(match[i]) for i in range(1, 7))
    try:
        moment = dt.datetime(year, month, day, hour, minute, min(second, 59), tzinfo=dt.UTC)
    except ValueError as error:
        raise TimeFormatError(f"{text[:64]!r} is not a time: {error}") from error
    if second > 60 or (match[10] and (int(match[10]) > 23 or int(match[11]) > 59)):
        raise TimeFormatError(f"{text[:64]!r} is not a time")
    offset = (int(match[10]) * 3600 + int(match[11]) * 60) * (-1 if match[9] == "-" else 1) if match[9] else 0
    seconds = int((moment - _EPOCH).total_seconds()) + (second == 60) - offset
    return seconds * SECOND + int((match[7] or "0")[:9].ljust(9, "0"))
