"""What is tried with foreign peers, and how it is told: a table with a row for each way to meet, a column a work."""

from __future__ import annotations

from typing import Literal

KeyKind = Literal["secp256k1", "ed25519"]
KEYS: tuple[KeyKind, ...] = ("secp256k1", "ed25519")

ECHO = "/interop/echo/1"
PING = "/ipfs/ping/1.0.0"
IDENTIFY = "/ipfs/id/1.0.0"
ECHO_BYTES = 16 * 2**20

Cell = tuple[str, str]
"""A row and a column."""


def table(results: dict[Cell, str]) -> list[str]:
    """Return the lines of the matrix; what was not tried is empty."""
    rows = list(dict.fromkeys(row for row, _ in results))
    columns = list(dict.fromkeys(column for _, column in results))
    width = max(len(row) for row in rows)
    widths = [max(len(column), *(len(results.get((row, column), "")) for row in rows)) for column in columns]
    lines = ["  ".join(["".ljust(width), *(c.ljust(w) for c, w in zip(columns, widths, strict=True))])]
    for row in rows:
        cells = (results.get((row, column), "").ljust(w) for column, w in zip(columns, widths, strict=True))
        lines.append("  ".join([row.ljust(width), *cells]).rstrip())
    return lines
