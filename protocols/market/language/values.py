"""The typed values of properties, and how an operand's text is read as one.

A value is a str, float, bool, Decimal, Version, Instant or a tuple of values. Each `read_*` returns None for a text
that is not of the type; a comparison with such an operand is false. Called by `literals` and `evaluate`.
"""

from __future__ import annotations

import re
from decimal import Decimal, DecimalException
from functools import lru_cache
from typing import TypeAlias

import msgspec

_NUMBER = re.compile(
    r"[+-]?(?:(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][+-]?[0-9]++)?|inf(?:inity)?|nan)", re.I | re.A
)
_DECIMAL = re.compile(r"[+-]?(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][+-]?[0-9]{1,19}+)?", re.ASCII)
_NUMERIC = r"(?:0|[1-9][0-9]{0,19})"
_VERSION = re.compile(
    rf"({_NUMERIC})\.({_NUMERIC})\.({_NUMERIC})(?:-([0-9A-Za-z.-]++))?(?:\+([0-9A-Za-z.-]++))?", re.A
)
_INSTANT = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt ]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]++))?"
    r"(?:[Zz]|([+\-\u2212])([0-9]{2}):([0-9]{2}))",
    re.ASCII,
)
_DAYS_IN_MONTH = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_U64 = 2**64


class Version(msgspec.Struct, frozen=True, eq=False):
    """A semantic version, ordered by SemVer 2.0.0 §11; build metadata does not count."""

    precedence: tuple[int, int, int, tuple[object, ...]]
    """Major, minor, patch, and a tuple that orders pre-releases; comparing these compares versions."""
    text: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Version) and self.precedence == other.precedence

    def __hash__(self) -> int:
        return hash(self.precedence)


class Instant(msgspec.Struct, frozen=True, order=True):
    """A point in time."""

    seconds: int
    """Seconds since 1970-01-01T00:00:00Z, leap seconds not counted."""
    nanoseconds: int
    """0 to 1,999,999,999; from 1,000,000,000 on within a leap second."""

    def __str__(self) -> str:
        """The RFC 3339 form in UTC."""
        days, second = divmod(self.seconds, 86_400)
        year, month, day = _date_of(days)
        leap, fraction = divmod(self.nanoseconds, 1_000_000_000)
        decimals = f".{fraction:09}".rstrip("0") if fraction else ""
        time = f"{second // 3600:02}:{second // 60 % 60:02}:{second % 60 + leap:02}{decimals}"
        return f"{year:04}-{month:02}-{day:02}T{time}Z"


Value: TypeAlias = str | float | bool | Decimal | Version | Instant | tuple["Value", ...]


def read_number(text: str) -> float | None:
    """Read a 64-bit float: digits with optional sign, point and exponent; `inf` and `nan` too."""
    return float(text) if _NUMBER.fullmatch(text) else None


def read_boolean(text: str) -> bool | None:
    """Read `true` or `false`, in lower case only."""
    return {"true": True, "false": False}.get(text)


def read_decimal(text: str) -> Decimal | None:
    """Read a decimal number of any precision."""
    if not _DECIMAL.fullmatch(text):
        return None
    try:
        return Decimal(text)
    except DecimalException:
        return None


def read_version(text: str) -> Version | None:
    """Read a semantic version `x.y.z[-pre-release][+build]` (SemVer 2.0.0 §2, §9, §10)."""
    return _remembered_version(text) if len(text) <= _REMEMBERED_LENGTH else _version(text)


def _version(text: str) -> Version | None:
    found = _VERSION.fullmatch(text)
    if not found:
        return None
    major, minor, patch, pre_release, build = found.groups()
    numbers = int(major), int(minor), int(patch)
    if max(numbers) >= _U64 or (build is not None and "" in build.split(".")):
        return None
    order = _pre_release_order(pre_release)
    return None if order is None else Version((*numbers, order), text)


def read_instant(text: str) -> Instant | None:
    """Read a date and time with its offset (RFC 3339; a blank may stand for the `T`, a U+2212 for the minus)."""
    return _remembered_instant(text) if len(text) <= _REMEMBERED_LENGTH else _instant(text)


def _instant(text: str) -> Instant | None:
    found = _INSTANT.fullmatch(text)
    if not found:
        return None
    year, month, day, hour, minute, second = map(int, found.group(1, 2, 3, 4, 5, 6))
    fraction, sign, offset_hours, offset_minutes = found.group(7, 8, 9, 10)
    if not (
        1 <= month <= 12 and 1 <= day <= _days_in(year, month) and hour < 24 and minute < 60 and second <= 60
    ):
        return None
    nanoseconds = int((fraction or "")[:9].ljust(9, "0"))
    if second == 60:
        second, nanoseconds = 59, nanoseconds + 1_000_000_000
    offset = 0
    if sign:
        if int(offset_hours) > 23 or int(offset_minutes) > 59:
            return None
        offset = (int(offset_hours) * 60 + int(offset_minutes)) * (60 if sign == "+" else -60)
    days = _days_since_epoch(year, month, day)
    return Instant(days * 86_400 + hour * 3600 + minute * 60 + second - offset, nanoseconds)


_REMEMBERED_LENGTH = 64
"""Longer texts are read anew each time, so that strangers cannot fill memory with them."""

_remembered_version = lru_cache(maxsize=4096)(_version)
_remembered_instant = lru_cache(maxsize=4096)(_instant)


def read_list(text: str) -> tuple[str, ...] | None:
    """Read the list form of an operand, `[a,b]`: blanks before an item are skipped, no item is empty."""
    if text == "[]":
        return ()
    if not (text.startswith("[") and text.endswith("]")):
        return None
    items = tuple(item.lstrip(" \t\r\n") for item in text[1:-1].split(","))
    if any(not item or "[" in item or "]" in item for item in items):
        return None
    return items


def _pre_release_order(pre_release: str | None) -> tuple[object, ...] | None:
    # A release is above all its pre-releases; numeric identifiers are below the others; more identifiers win.
    if pre_release is None:
        return (1,)
    order: list[tuple[int, int, str]] = []
    for identifier in pre_release.split("."):
        if identifier.isdigit():
            if identifier[0] == "0" and identifier != "0":
                return None
            # Without leading zeros, numbers order by length, then by text; no length is too long that way.
            order.append((0, len(identifier), identifier))
        elif identifier:
            order.append((1, 0, identifier))
        else:
            return None
    return (0, *order)


def _days_in(year: int, month: int) -> int:
    leap = month == 2 and year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    return 29 if leap else _DAYS_IN_MONTH[month - 1]


def _days_since_epoch(year: int, month: int, day: int) -> int:
    # Proleptic Gregorian, with the year starting in March so that the leap day comes last; datetime has no year 0.
    year -= month <= 2
    day_of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return 365 * year + year // 4 - year // 100 + year // 400 + day_of_year - 719_468


def _date_of(days: int) -> tuple[int, int, int]:
    """Return year, month and day of a day counted from 1970-01-01; undoes `_days_since_epoch`."""
    days += 719_468
    era, day_of_era = divmod(days, 146_097)
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    month_from_march = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * month_from_march + 2) // 5 + 1
    month = month_from_march + (3 if month_from_march < 10 else -9)
    return era * 400 + year_of_era + (month <= 2), month, day
