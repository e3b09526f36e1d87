"""How large a text of the property language may be.

Offers come from strangers, so every dimension that costs time or memory has a bound. What is beyond one is
refused with an error (properties, constraints) or ignored like any other value that cannot be read (a literal).
"""

from __future__ import annotations

MAX_TEXT_BYTES = 64 * 1024
"""UTF-8 bytes of a property document, and of a constraint."""

MAX_DEPTH = 64
"""Objects and lists within each other, segments of a dotted name, filters within filters."""

MAX_PROPERTIES = 4096
"""Flat properties in one set."""

MAX_TERMS = 1024
"""Comparisons, presences, constants, and items of list operands beyond the first, in one constraint."""


def exceeds_text_limit(text: str) -> bool:
    """Tell whether `text` is longer than MAX_TEXT_BYTES; one that has no UTF-8 form counts its characters."""
    if len(text) * 4 <= MAX_TEXT_BYTES:
        return False
    return len(text) > MAX_TEXT_BYTES or len(text.encode("utf-8", "surrogatepass")) > MAX_TEXT_BYTES
