"""Matching a text against a pattern in which `*` stands for any run of characters, even none.

There are no other special characters and no escape. The two-pointer method needs no memory and at most
len(pattern) * len(text) steps, so a hostile pattern costs little, unlike the regular expression that the original
makes of it. Called by `evaluate`.
"""

from __future__ import annotations


def matches(pattern: str, text: str) -> bool:
    """Tell whether all of `text` matches `pattern`."""
    pieces = pattern.split("*")
    if len(pieces) == 1:
        return pattern == text
    first, *middle, last = pieces
    if len(text) < len(first) + len(last) or not (text.startswith(first) and text.endswith(last)):
        return False
    # Taking each piece at its first place leaves the most text for those behind it, so nothing has to be undone.
    at, end = len(first), len(text) - len(last)
    for piece in middle:
        at = text.find(piece, at, end)
        if at < 0:
            return False
        at += len(piece)
    return True
