"""Three-valued evaluation, its reasons, and mutual matching."""

from __future__ import annotations

import pytest
from hypothesis import given

from protocols.market.language import Constraint, PropertySet, Verdict, match, to_text
from tests.protocols.market.language import strategies

VERDICTS = {True: Verdict.MATCH, False: Verdict.MISMATCH, None: Verdict.UNDEFINED}


def truth(constraint: str, *lines: str) -> bool | None:
    return Constraint.parse(constraint).evaluate(PropertySet.from_flat(lines))


@pytest.mark.parametrize(
    ("constraint", "line", "expected"),
    [
        # Strings: exact, case-sensitive, ordered by bytes; nothing is decoded.
        ("(a=x)", 'a="x"', True),
        ("(a=X)", 'a="x"', False),
        ("(a=5)", 'a="5"', True),
        ("(a>B)", 'a="a"', True),
        ("(a<é)", 'a="z"', True),
        ("(a>\uffee)", 'a="\U0001f600"', True),
        ('(a=x\\"y)', 'a="x\\"y"', True),
        ("(a=[x])", 'a="[x]"', True),
        # Patterns: only * is special.
        ("(a=x*)", 'a="xyz"', True),
        ("(a=x*z)", 'a="xyz"', True),
        ("(a=x*y)", 'a="xyz"', False),
        ("(a=f.o*)", 'a="foo"', False),
        ("(a=f.o*)", 'a="f.oo"', True),
        ("(a=f[*)", 'a="f[x"', True),
        ("(a<x*)", 'a="x"', True),
        # Numbers.
        ("(a=5.0)", "a=5", True),
        ("(a>=.5)", "a=0.5", True),
        ("(a<inf)", "a=5", True),
        ("(a=nan)", "a=5", False),
        ("(a<nan)", "a=5", False),
        ("(a<5x)", "a=1", False),
        ("(a=)", "a=5", False),
        ("(a=9007199254740993)", "a=9007199254740992", True),
        # Booleans: equality alone, and lower case.
        ("(a=true)", "a=TRUE", True),
        ("(a=True)", "a=true", False),
        ("(a=1)", "a=true", False),
        ("(a>=true)", "a=true", False),
        # Decimals, versions, dates.
        ("(a=0.3)", 'a=d"0.30"', True),
        ("(a<0.31)", 'a=d"0.30"', True),
        ("(a=x)", 'a=d"0.30"', False),
        ("(a>=0.5.0)", 'a=v"0.10.0"', True),
        ("(a=1.0.0)", 'a=v"1.0.0+b"', True),
        ("(a>1.0.0-rc1)", 'a=v"1.0.0"', True),
        ("(a>=1.0)", 'a=v"1.0.0"', False),
        ("(a=2021-01-01T00:00:00Z)", 'a=t"2021-01-01T02:00:00+02:00"', True),
        ("(a>2020-01-01)", 'a=t"2021-01-01T02:00:00+02:00"', False),
        # Lists: membership, or the list form; order comparisons are false.
        ("(a=x)", 'a=["x","y"]', True),
        ("(a=x*)", 'a=["y","xz"]', True),
        ("(a=1)", 'a=["x",1.0]', True),
        ("(a=z)", 'a=["x","y"]', False),
        ("(a=x)", 'a=[["x"]]', True),
        ("(a=[y,x])", 'a=["x","y"]', True),
        ("(a=[x,x])", 'a=["x","y"]', True),
        ("(a=[x])", 'a=["x","y"]', False),
        ("(a=[x*,1])", 'a=[1,"xz"]', True),
        ("(a=[])", "a=[]", True),
        ("(a=[ ])", "a=[]", False),
        ("(a>=x)", 'a=["x","y"]', False),
        # Coercion: only strings are read as another type.
        ("(a$v>=0.3.0)", 'a="0.10.0"', True),
        ("(a$v>=0.3.0)", 'a=v"0.10.0"', True),
        ("(a$v>=0.3)", 'a="0.10.0"', False),
        ("(a$v>=0.3.0)", 'a="x"', None),
        ("(a$d>=10)", "a=11", None),
        ("(a$d>=10)", 'a="11"', True),
        ("(a$v=1.0.0)", 'a=d"1"', None),
        ("(a$v=1.0.0)", 'a=["1.0.0"]', None),
        ("(a$t>2020-01-01T00:00:00Z)", 'a="2021-01-01T00:00:00+02:00"', True),
        # Absent and value-less.
        ("(a=1)", "b=1", None),
        ("(a=1)", "a", None),
        ("(a$v=1.0.0)", "a", None),
        ("(a=*)", "a", True),
        ("(a=*)", "b=1", False),
        ("(a$v=*)", 'a="x"', True),
        ("(a[x]=1)", "a=1", None),
        ("(a[x]=*)", "a=1", False),
    ],
)
def test_terms(constraint: str, line: str, expected: bool | None) -> None:
    assert truth(constraint, line) is expected


@pytest.mark.parametrize("operator", ["=", "<", "<=", ">", ">="])
def test_aspects_are_compared_for_equality_alone(operator: str) -> None:
    properties = PropertySet.from_flat(["a=1"], [("a", "x", "5")])
    assert Constraint.parse(f"(a[x]{operator}5)").evaluate(properties) is True
    assert Constraint.parse(f"(a[x]$d{operator}5.0)").evaluate(properties) is False
    assert Constraint.parse("(a[x]=*)").evaluate(properties) is True


T, F, U = "()", "(|)", "(u=1)"


@pytest.mark.parametrize(
    ("constraint", "expected"),
    [
        (f"(&{T}{T})", True),
        (f"(&{T}{F})", False),
        (f"(&{U}{T})", None),
        (f"(&{U}{F})", False),
        (f"(&{F}{U})", False),
        (f"(|{F}{F})", False),
        (f"(|{U}{T})", True),
        (f"(|{T}{U})", True),
        (f"(|{F}{U})", None),
        (f"(!{T})", False),
        (f"(!{F})", True),
        (f"(!{U})", None),
    ],
)
def test_connectives(constraint: str, expected: bool | None) -> None:
    assert truth(constraint, "a=1") is expected


@pytest.mark.parametrize(
    ("constraint", "lines", "verdict", "unresolved", "reduced"),
    [
        ("(&(a=b)(b=c)(c=d))", ['c="d"'], "undefined", ["a", "b"], "(&(a=b)(b=c))"),
        ("(&(a=b)(b=c)(c=d))", ['c="x"'], "mismatch", [], "(|)"),
        ("(&(a=1)(a=2))", [], "undefined", ["a", "a"], "(&(a=1)(a=2))"),
        ("(|(a=1)(b=1)(c=1))", ["c=2"], "undefined", ["a", "b"], "(|(a=1)(b=1))"),
        ("(|(a=*)(b=1))", ["c=2"], "undefined", ["a", "b"], "(b=1)"),
        ("(|(a=*)(b=*))", ["c=2"], "mismatch", ["a", "b"], "(|)"),
        ("(!(&(a=1)(b=1)))", ["a=1"], "undefined", ["b"], "(!(b=1))"),
        ("(a$v>=1.5.0)", ['a="x"'], "undefined", [], "(a$v>=1.5.0)"),
        ("(a$v>=1.5.0)", [], "undefined", ["a"], "(a$v>=1.5.0)"),
        ("(a[x]=1)", ["a=1"], "undefined", ["a[x]"], "(a[x]=1)"),
        ("(a[x]=*)", ["a=1"], "mismatch", ["a[x]"], "(|)"),
        ("(a[x]=*)", ["a"], "mismatch", ["a[x]"], "(a[x]=*)"),
        ("(|(a[x]=*)(b=1))", [], "undefined", ["a[x]", "b"], "(|(a[x]=*)(b=1))"),
        ("(|(a[x]=*)(b=*))", [], "mismatch", ["a[x]", "b"], "(a[x]=*)"),
        ("(&(|(a=1)(b=1))(c=1))", ["a=1", "c=1"], "match", [], "()"),
    ],
)
def test_resolution(
    constraint: str, lines: list[str], verdict: str, unresolved: list[str], reduced: str
) -> None:
    resolution = Constraint.parse(constraint).resolve(PropertySet.from_flat(lines))
    assert resolution.verdict.value == verdict
    assert list(resolution.unresolved) == unresolved
    assert to_text(resolution.reduced) == reduced


@given(strategies.constraints, strategies.flat_lines)
def test_the_fast_path_and_the_reasons_agree(text: str, lines: list[str]) -> None:
    constraint, properties = Constraint.parse(text), PropertySet.from_flat(lines)
    assert VERDICTS[constraint.evaluate(properties)] is constraint.resolve(properties).verdict


@given(strategies.constraints, strategies.flat_lines, strategies.flat_lines)
def test_what_remains_decides_as_the_whole_does(text: str, lines: list[str], more: list[str]) -> None:
    known = {line.partition("=")[0] for line in lines}
    fuller = PropertySet.from_flat(lines + [line for line in more if line.partition("=")[0] not in known])
    constraint = Constraint.parse(text)
    first = constraint.resolve(PropertySet.from_flat(lines))
    if first.verdict is Verdict.UNDEFINED and "=*" not in text:
        assert Constraint(first.reduced).evaluate(fuller) is constraint.evaluate(fuller)


@given(strategies.constraints, strategies.constraints, strategies.flat_lines, strategies.flat_lines)
def test_matching_joins_both_sides(demanded: str, offered: str, demand: list[str], offer: list[str]) -> None:
    demand_set, offer_set = PropertySet.from_flat(demand), PropertySet.from_flat(offer)
    wants, asks = Constraint.parse(demanded), Constraint.parse(offered)
    result = match(demand_set, wants, offer_set, asks)
    sides = wants.resolve(offer_set), asks.resolve(demand_set)
    if Verdict.UNDEFINED in (sides[0].verdict, sides[1].verdict):
        assert result.verdict is Verdict.UNDEFINED
    else:
        assert (result.verdict is Verdict.MATCH) == (sides[0].verdict is sides[1].verdict is Verdict.MATCH)
    assert result.offer_mismatch == sides[0].unresolved
    assert result.demand_mismatch == sides[1].unresolved


def test_undefined_wins_over_a_definite_no() -> None:
    demand, offer = PropertySet.from_flat(['d="1"']), PropertySet.from_flat(['o="1"'])
    result = match(demand, Constraint.parse("(x=1)"), offer, Constraint.parse("(d=2)"))
    assert result.verdict is Verdict.UNDEFINED
    assert result.offer_mismatch == ("x",)
    assert result.demand_mismatch == ()
