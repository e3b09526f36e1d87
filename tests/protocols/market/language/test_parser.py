"""Constraint texts, their trees, and where reading stops."""

from __future__ import annotations

import pytest
from hypothesis import given

from protocols.market.language import MAX_DEPTH, MAX_TERMS, ConstraintError, parse, parse_reference, to_text
from protocols.market.language.expression import FALSE, TRUE, And, Comparison, Not, Present, Reference
from tests.protocols.market.language import strategies


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("()", "()"),
        ("(&)", "()"),
        ("( & )", "()"),
        ("(|)", "(|)"),
        (" ( a=1 ) ", "(a=1 )"),
        ("(a=1)", "(a=1)"),
        ("(a<=1)", "(a<=1)"),
        ("(a =x)", "(a =x)"),
        ("(a= x)", "(a= x)"),
        ("(a=*)", "(a=*)"),
        ("(a=* )", "(a=*)"),
        ("(a<*)", "(a<*)"),
        ("(a[x]$v>=1)", "(a[x]$v>=1)"),
        ("(\n&\t(a=1)\r\n (b=2) )", "(&(a=1)(b=2))"),
        ("( ! (a=1) )", "(!(a=1))"),
        ("(& ())", "(&())"),
        # Not what one would think, but what the original does.
        ("(a=1)garbage", "(a=1)"),
        ("(a=1)(b=2)", "(a=1)"),
        ("()(a=1)", "()"),
        ("((a=1))", "((a=1)"),
        ("(a!=x)", "(a!=x)"),
        ("(a<>x)", "(a<>x)"),
        ("(a==5)", "(a==5)"),
        ("(a=>5)", "(a=>5)"),
        ("(!x=5)", "(!x=5)"),
        ("(! x=5)", "(! x=5)"),
        ("(!(&=5)", "(!(&=5)"),
        ("(!(&(b=5)(c=6", "(!(&(b=5)"),
        ("( )(a=1)", "()(a=1)"),
        ("(=5)", "(=5)"),
        ("(=*)", "(=*)"),
    ],
)
def test_canonical_text(text: str, printed: str) -> None:
    assert to_text(parse(text)) == printed


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("", 0),
        ("a=1", 0),
        (" x", 1),
        ("( )", 3),
        (" ()", 3),
        ("(", 1),
        ("(a)", 3),
        ("(a=1", 4),
        ("(a=", 3),
        ("(a~=x)", 2),
        ("(a=*x)", 4),
        ("(a=**)", 4),
        ("(&(a=1)(b=2)", 12),
        ("(& (a=1) | (b=2))", 9),
        ("(&x=5)", 2),
        ("(!(a=1)(b=2))", 7),
        ("(!a)", 4),
        ("(!(&(b=5)", 9),
        ("(&() ())", 8),
        ("(a[b=x)", 1),
        ("(a$x=1)", 1),
        ("(a$dv=1)", 1),
        ("(a]=1)", 1),
        ("(&(a=1)(b[=2))", 8),
    ],
)
def test_errors_say_where(text: str, position: int) -> None:
    with pytest.raises(ConstraintError) as raised:
        parse(text)
    assert raised.value.position == position
    assert f"character {position}:" in str(raised.value)


def test_trees() -> None:
    assert parse("(&)") is TRUE
    assert parse("(|)") is FALSE
    assert parse("(&(a$v>=1.0.0)(!(b[x]=*)))") == And(
        (Comparison(Reference("a", None, "v"), ">=", "1.0.0"), Not(Present(Reference("b", "x"))))
    )


@pytest.mark.parametrize("text", ["(a=1)garbage", "(a=1)(b=2)", "()()"])
def test_strict_refuses_text_behind_the_filter(text: str) -> None:
    with pytest.raises(ConstraintError, match="text after the end"):
        parse(text, strict=True)


def test_strict_allows_blanks() -> None:
    assert parse("()\n ", strict=True) is TRUE
    assert to_text(parse(" (a=1)\n", strict=True)) == "(a=1)"


@pytest.mark.parametrize(
    ("opening", "inner", "closing"),
    [("(&", "(a=1)", ")"), ("(|", "(a=1)", ")"), ("(!", "(a=1)", ")"), ("(!", "()", ")")],
)
def test_depth_limit(opening: str, inner: str, closing: str) -> None:
    parse(opening * MAX_DEPTH + inner + closing * MAX_DEPTH)
    with pytest.raises(ConstraintError, match="64 levels"):
        parse(opening * (MAX_DEPTH + 1) + inner + closing * (MAX_DEPTH + 1))


@pytest.mark.parametrize("term", ["(a=1)", "(a=*)", "()", "(|)", "(&)"])
def test_term_limit(term: str) -> None:
    parse("(&" + term * MAX_TERMS + ")")
    with pytest.raises(ConstraintError, match="1024 terms"):
        parse("(&" + term * (MAX_TERMS + 1) + ")")


def test_items_of_a_list_operand_count_as_terms() -> None:
    parse(f"(a=[{'x,' * (MAX_TERMS - 1)}x])")
    with pytest.raises(ConstraintError, match="1024 terms"):
        parse(f"(a=[{'x,' * MAX_TERMS}x])")
    parse(f"(a={'x,' * MAX_TERMS}x)")


def test_size_limit_counts_bytes() -> None:
    parse(f"(a={'ż' * 32_000})")
    with pytest.raises(ConstraintError, match="65536 bytes"):
        parse(f"(a={'ż' * 33_000})")


@given(strategies.constraints)
def test_canonical_text_parses_to_the_same_tree(text: str) -> None:
    tree = parse(text)
    assert parse(to_text(tree), strict=True) == tree


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", Reference("a")),
        ("", Reference("")),
        ("a.b@v", Reference("a.b@v")),
        ("a$d", Reference("a", None, "d")),
        ("$t", Reference("", None, "t")),
        ("a[b]", Reference("a", "b")),
        ("[b]$v", Reference("", "b", "v")),
        ("a[]", Reference("a", "")),
        ("est{30}", Reference("est{30}")),
    ],
)
def test_references(text: str, expected: Reference) -> None:
    assert parse_reference(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    "text", ["a$", "a$x", "a$dd", "a[b", "a]", "a[[b]", "a[b]c", "a[b]$", "a$d[b]", "a[b][c]"]
)
def test_no_references(text: str) -> None:
    assert parse_reference(text) is None
