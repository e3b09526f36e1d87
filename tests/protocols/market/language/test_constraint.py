"""Constraints as shared objects."""

from __future__ import annotations

import hashlib

import pytest

from protocols.market.language import Constraint, ConstraintError, PropertySet, parse


def test_one_object_for_one_text_and_for_one_tree() -> None:
    first = Constraint.parse("(&(a=1)(b=2))")
    assert Constraint.parse("(&(a=1)(b=2))") is first
    assert Constraint.parse("( & (a=1) (b=2) )") is first
    assert Constraint.parse("( & (a=1) (b=2) )", strict=True) is first
    assert first.text == str(first) == "(&(a=1)(b=2))"
    assert first.digest == hashlib.sha256(b"(&(a=1)(b=2))").digest()
    assert repr(first) == "Constraint('(&(a=1)(b=2))')"


def test_trees_that_print_alike_are_kept_apart() -> None:
    odd, plain = Constraint.parse("(&( )(a=1))"), Constraint.parse("(&()(a=1))")
    assert odd.text == plain.text
    assert odd != plain
    properties = PropertySet.from_flat(["a=1"])
    assert odd.evaluate(properties) is None
    assert plain.evaluate(properties) is True


def test_equality_is_that_of_trees() -> None:
    constraint = Constraint.parse("(a=1)")
    assert Constraint(parse("(a=1)")) == constraint
    assert hash(Constraint(parse("(a=1)"))) == hash(constraint)
    assert constraint != Constraint.parse("(a=2)")
    assert constraint != "(a=1)"


def test_strictness_is_not_remembered() -> None:
    Constraint.parse("(a=1)x")
    with pytest.raises(ConstraintError):
        Constraint.parse("(a=1)x", strict=True)
    assert Constraint.parse("(a=1)x").text == "(a=1)"


def test_references_are_sorted_and_single() -> None:
    assert Constraint.parse("(&(|(b=1)(a$v=1))(!(a=*))(c[x]=1))").references == ("a", "b", "c[x]")


def test_conjuncts_are_those_of_nested_ands() -> None:
    constraint = Constraint.parse("(&(a=1)(&(b=1)(|(c=1)(d=1)))(!(&(e=1)(f=1))))")
    assert [Constraint(part.expression).text for part in constraint.conjuncts] == [
        "(a=1)",
        "(b=1)",
        "(|(c=1)(d=1))",
        "(!(&(e=1)(f=1)))",
    ]
