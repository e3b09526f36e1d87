"""How values are written into columns and rows are read: wei as text of fixed length, JSON, single rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from p2p.storage import Connection

NO_LIMIT: Final = -1
"""What SQLite takes for no LIMIT."""
_DIGITS: Final = 39
"""Enough for 2^128. An amount that crosses an edge is below 2^96; sums of them fit."""


def wei(amount: int) -> str:
    """Return an amount as its column holds it: 39 digits, so that text order is the order of amounts."""
    text = f"{amount:0{_DIGITS}d}"
    if amount < 0 or len(text) != _DIGITS:
        raise ValueError(f"{amount} wei cannot be stored")
    return text


def from_json(text: str) -> Any:
    """Return what a JSON column holds."""
    return msgspec.json.decode(text)


def to_json(value: Any) -> str:
    """Return a value for a JSON column."""
    return msgspec.json.encode(value).decode()


def first(c: Connection, statement: str, values: tuple[Any, ...] = ()) -> Any:
    """Return the first row of a query, or None."""
    return c.execute(statement, values).fetchone()


def where(*conditions: tuple[str, Any]) -> tuple[str, tuple[Any, ...]]:
    """Return a WHERE clause, and its values, of those conditions whose value is not None.

    What is not asked for is left out of the statement, so that SQLite sees which index fits.
    """
    given = [(condition, value) for condition, value in conditions if value is not None]
    text = " AND ".join(condition for condition, _ in given)
    return (f" WHERE {text}" if given else ""), tuple(value for _, value in given)
