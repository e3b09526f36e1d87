"""Hypothesis strategies for texts of the property language: near-misses as likely as the real thing."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

NAMES = ("a", "b", "c", "golem.runtime.name", "żółw", "a b", "@tag")
OPERANDS = (
    *(
        "1",
        "2",
        "10",
        "1.0",
        "-5",
        "+1",
        ".5",
        "1e0",
        "inf",
        "nan",
        "true",
        "false",
        "True",
        "",
        " x",
        "x",
        "xy",
        "x*",
    ),
    *(
        "x*y",
        "*".join("xyz"),
        "[x]",
        "[x, y]",
        "[1,2]",
        "[]",
        "[ ]",
        "[x",
        "1.0.0",
        "1.0.0-rc1",
        "1.10.0",
        "0.50",
    ),
    *("2020-01-01T00:00:00Z", "2020-01-01T01:00:00+01:00", "2020-01-01"),
)
LITERALS = (
    *(
        '"x"',
        '"xy"',
        '"xyz"',
        '" x"',
        '""',
        '"1.0.0"',
        '"1.10.0"',
        '"0.5"',
        '"2020-01-01T00:00:00Z"',
        '"[x]"',
        "1",
    ),
    *(
        "2.0",
        "10",
        "-5",
        "0.5",
        "true",
        "false",
        "null",
        "{}",
        "[]",
        '["x","y"]',
        "[1,2]",
        '["x",1,true]',
        '[["x"],2]',
    ),
    *('v"1.0.0"', 'v"1.0.0-rc1"', 'd"1.0"', 't"2020-01-01T00:00:00Z"', '[v"1.0.0"]', '"\\r"', '"a', "1x"),
)

names = st.sampled_from(NAMES)
references = st.builds(
    "{}{}{}".format, names, st.sampled_from(("", "", "", "[x]")), st.sampled_from(("", "", "$d", "$v", "$t"))
)
comparisons = st.builds(
    "({}{}{})".format,
    references,
    st.sampled_from(("=", "=", "<", "<=", ">", ">=")),
    st.sampled_from(OPERANDS),
)
presences = st.builds("({}=*)".format, references)
constants = st.sampled_from(("()", "(&)", "(|)"))


def _grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    several = st.lists(inner, max_size=3).map("".join)
    return st.builds("({}{})".format, st.sampled_from("&&|"), several) | inner.map("(!{})".format)


constraints = st.recursive(comparisons | comparisons | presences | constants, _grown, max_leaves=8)
"""Well-formed constraints."""

_pieces = ("(", ")", "()", "&", "|", "!", "=", "=*", "<", ">=", "~", " ", "\n", "a", "(a=1)", "[", "$v", "é")
fragments = st.lists(st.sampled_from(_pieces), max_size=12).map("".join)
"""What is mostly not a constraint."""

flat_lines = st.lists(st.builds("{}={}".format, names, st.sampled_from(LITERALS)) | names, max_size=8)

_keys = st.sampled_from(("a", "b", "a.b", "a.b.c", "@tag", "", "a=b", ".")) | st.text(max_size=4)
_numbers = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
documents: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | _numbers | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_keys, inner, max_size=4),
    max_leaves=10,
)
"""Any JSON."""
