"""Whatever the text, the language answers or raises its own error."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.market.language import (
    Constraint,
    ConstraintError,
    LanguageError,
    PropertyError,
    PropertySet,
    expand,
    flat_lines,
    flatten,
    match,
    merge,
    parse,
    patch,
    to_text,
)
from protocols.market.language.literals import read_form, read_literal
from protocols.market.language.values import read_list
from tests.protocols.market.language import strategies

any_constraint = strategies.constraints | strategies.fragments | st.text(max_size=40)


@given(any_constraint, st.booleans())
def test_parsing_gives_a_tree_or_an_error_with_a_position(text: str, strict: bool) -> None:
    position = 0
    try:
        assert to_text(parse(text, strict=strict))
    except ConstraintError as error:
        position = error.position
    assert 0 <= position <= len(text)


@given(any_constraint, strategies.documents, st.lists(st.text(max_size=20), max_size=5))
def test_any_constraint_answers_for_any_properties(text: str, document: Any, lines: list[str]) -> None:
    try:
        constraint = Constraint.parse(text)
        sets = [PropertySet.from_json(document, require_object=False), PropertySet.from_flat(lines)]
    except LanguageError:
        return
    for properties in sets:
        constraint.resolve(properties)
        match(properties, constraint, properties, constraint)


@given(strategies.documents, strategies.documents)
def test_any_documents_can_be_worked_on(base: Any, over: Any) -> None:
    for work in (flatten, expand, flat_lines):
        work(base)
    for join in (merge, patch):
        join(base, over)


@given(st.text(max_size=60) | strategies.documents.map(json.dumps))
def test_any_text_is_properties_or_an_error(text: str) -> None:
    try:
        PropertySet.from_text(text)
    except PropertyError:
        return
    assert isinstance(json.loads(text), dict)


@given(
    st.text(max_size=40)
    | st.lists(st.sampled_from(('"', "\\", "[", "]", ",", "1", " ", 'v"')), max_size=9).map("".join)
)
def test_any_text_is_a_literal_or_is_not(text: str) -> None:
    read_form(text)
    read_literal(text)
    read_list(text)


@pytest.mark.parametrize(
    "text",
    [
        "(" * 60_000,
        "(!" * 30_000,
        "(&" * 30_000 + ")" * 30_000,
        "(!" * 60 + "(a=" + "1)" * 100,
        "(" + "&(a=1)" * 9_000,
        "(a=1)" * 13_000,
        "(&" + "(a=1)" * 2_000 + ")",
        "(a=" + "1" * 60_000 + ")",
        "(a=" + "*" * 60_000,
        "(a=x" + "*" * 60_000 + ")",
        "(" + " " * 60_000 + "!" + " " * 5_000,
        "\ud800",
        "(a=\udfff)",
        "(a=1)" * 20_000,
        "ż" * 40_000,
        "",
    ],
    ids=lambda text: f"{text[:12]!a}x{len(text)}",
)
def test_hostile_constraints_are_answered(text: str) -> None:
    try:
        constraint = Constraint.parse(text)
    except ConstraintError:
        return
    constraint.resolve(PropertySet.from_flat(['a="' + "x" * 60_000 + '"']))


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a":' * 30_000,
        "[" * 30_000 + "]" * 30_000,
        '{"a":' + "9" * 60_000 + "}",
        '{"a":1e99999}',
        '{"a":NaN}',
        '{"a":-Infinity}',
        '{"a":"\\ud800"}',
        '{"\\udfff":1}',
        '{"a":"\ud800"}',
        "{" + ",".join(f'"{number}":1' for number in range(5_000)) + "}",
        json.dumps({".".join("a" * 100): 1}),
        "x" * 70_000,
        "\ufeff{}",
        "5",
        "[1]",
        "",
        " ",
        '{"a":1}x',
    ],
    ids=lambda text: f"{text[:12]!a}x{len(text)}",
)
def test_hostile_properties_are_refused(text: str) -> None:
    with pytest.raises(PropertyError):
        PropertySet.from_text(text)


def test_hostile_documents_are_refused() -> None:
    deep: Any = []
    for _ in range(5_000):
        deep = [deep]
    for document in (
        deep,
        {"a": deep},
        {1: 2},
        {"a": object()},
        {"a": float("nan")},
        {"a": 10**400},
        {"a": "\ud800"},
    ):
        for work in (
            PropertySet.from_json,
            flatten,
            expand,
            flat_lines,
            lambda one: merge(one, {}),
            lambda one: patch({}, one),
        ):
            with pytest.raises(PropertyError):
                work(document)


def test_hostile_literals_are_ignored() -> None:
    for literal in (
        "[" * 60_000,
        "[" * 30_000 + "]" * 30_000,
        '"' + "\\n" * 30_000,
        "1" * 60_000,
        'd"1e999999999999999999999"',
    ):
        PropertySet.from_flat([f"a={literal}"])
    with pytest.raises(PropertyError, match="65536 bytes"):
        PropertySet.from_flat(["a=1"] * 30_000)
    with pytest.raises(PropertyError, match="4096 properties"):
        PropertySet.from_flat(f"{number}=1" for number in range(5_000))
