"""Patterns with `*`, against a slow and obvious oracle."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from protocols.market.language.wildcard import matches


@given(st.text("ab*", max_size=10), st.text("ab\n", max_size=12))
def test_agrees_with_a_regular_expression(pattern: str, text: str) -> None:
    oracle = ".*".join(map(re.escape, pattern.split("*")))
    assert matches(pattern, text) == (re.fullmatch(oracle, text, re.DOTALL) is not None)


def test_nothing_else_is_special() -> None:
    assert matches("a.[(*\\", "a.[(x\\")
    assert not matches("a.*", "ab")
    assert matches("*", "")
    assert matches("", "")
    assert not matches("", "a")


def test_pieces_do_not_overlap() -> None:
    assert not matches("ab*ba", "aba")
    assert not matches("a*a", "a")
    assert not matches("a*b*b", "ab")
    assert matches("a*b*c", "a.b.b.c")
