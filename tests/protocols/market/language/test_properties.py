"""Property documents: flat and nested forms, merging, patching, canonical text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given

from protocols.market.language import (
    PropertyError,
    canonical_text,
    expand,
    flat_lines,
    flatten,
    json_text,
    merge,
    patch,
)
from tests.protocols.market.language import strategies


@pytest.mark.parametrize(
    ("document", "flat"),
    [
        ({}, {"": {}}),
        ({"a": {}}, {"a": {}}),
        ({"a": {"b": 1, "c.d": 2}}, {"a.b": 1, "a.c.d": 2}),
        ({"a": [{"b": 1}], "c": None}, {"a": [{"b": 1}], "c": None}),
        ({"a": {"@tag": 1, "b": 2}}, {"a": 1, "a.b": 2}),
        ({"a": {"@tag": {"x": 1}}}, {"a": {"x": 1}}),
        ({"@tag": 1}, {"": 1}),
        ({"a.b": 1, "a": {"b": 2}}, {"a.b": 1}),
        ({"": {"a": 1}}, {"a": 1}),
        ({"a": {"": 1}}, {"a.": 1}),
        (5, {"": 5}),
        ([1], {"": [1]}),
    ],
)
def test_flatten(document: Any, flat: dict[str, Any]) -> None:
    assert flatten(document) == flat
    assert list(flatten(document)) == sorted(flat, key=str.encode)


@pytest.mark.parametrize(
    ("document", "expanded"),
    [
        ({"a.b": 1}, {"a": {"b": 1}}),
        ({"a": 1, "a.b": 2}, {"a": {"@tag": 1, "b": 2}}),
        ({"a.b": {"c": 1}, "a": {"b": 2}}, {"a": {"b": {"c": 1, "@tag": 2}}}),
        ({"a": {"b.c": 1}, "a.b": 2}, {"a": {"b": {"c": 1, "@tag": 2}}}),
        ({"a": None, "a.b": 1}, {"a": {"b": 1}}),
        ({"a": [{"b.c": 1}]}, {"a": [{"b": {"c": 1}}]}),
        ({"a.": 1, ".b": 2}, {"a": {"": 1}, "": {"b": 2}}),
    ],
)
def test_expand(document: Any, expanded: Any) -> None:
    assert expand(document) == expanded


@pytest.mark.parametrize(
    ("base", "over", "merged"),
    [
        ({"a": 1}, {"a": 2}, {"a": 2}),
        ({"a": 1}, {"a.b": 2}, {"a": {"@tag": 1, "b": 2}}),
        ({"a.b": 1}, {"a": 2}, {"a": {"b": 1, "@tag": 2}}),
        ({"a.b": 1}, {"a": None}, {"a": {"b": 1}}),
        ({"a": [1]}, {"a": [2]}, {"a": [2]}),
        ({"a.b": 1}, {"a.c": 2}, {"a": {"b": 1, "c": 2}}),
    ],
)
def test_merge(base: Any, over: Any, merged: Any) -> None:
    assert merge(base, over) == merged


@pytest.mark.parametrize(
    ("base", "over", "patched"),
    [
        ({"a": 1, "b": 2}, {"a": 3}, {"a": 3, "b": 2}),
        ({"a": {"x": 1}}, {"a": {"y": 2}}, {"a": {"x": 1, "y": 2}}),
        ({"a": {"x": 1}}, {"a": 2}, {"a": 2}),
        ({"a": 1}, {"a": {"x": 1}}, {"a": {"x": 1}}),
        ({"a": 1}, {"a": None}, {"a": None}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({"a.b": 1}, {"a": {"b": 2}}, {"a.b": 1, "a": {"b": 2}}),
    ],
)
def test_patch(base: Any, over: Any, patched: Any) -> None:
    assert patch(base, over) == patched


@given(strategies.documents)
def test_flattening_what_was_expanded_changes_nothing(document: Any) -> None:
    def has_odd_keys(value: Any) -> bool:
        if isinstance(value, list):
            return any(map(has_odd_keys, value))
        # A tag in the input, a null beside children and an empty object beside them do not survive.
        return value in (None, {}) or (
            (isinstance(value, dict) and any("@tag" in key or not all(key.split(".")) for key in value))
            or (isinstance(value, dict) and any(map(has_odd_keys, value.values())))
        )

    if isinstance(document, dict) and not has_odd_keys(document):
        assert flatten(expand(document)) == flatten(expand(flatten(document)))


@given(strategies.documents, strategies.documents)
def test_arguments_are_left_alone(base: Any, over: Any) -> None:
    before = json.dumps([base, over])
    merge(base, over)
    patch(base, over)
    expand(base)
    assert json.dumps([base, over]) == before


@given(strategies.documents)
def test_canonical_text_does_not_depend_on_spelling(document: Any) -> None:
    text = canonical_text(document)
    again = canonical_text(json.loads(json.dumps(document, indent=2)))
    assert again == text
    assert json.loads(text) == flatten(document)


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ({"b": 1, "a": {"c": True}}, '{"a.c":true,"b":1}'),
        ({"é": 1, "z": 2, "\U0001f600": 3, "\uffee": 4}, '{"z":2,"é":1,"\uffee":4,"\U0001f600":3}'),
        ({"a": '\u00e9\n\t"\\/\b\f\r\u0001\u007f'}, '{"a":"é\\n\\t\\"\\\\/\\b\\f\\r\\u0001\u007f"}'),
        (
            {"a": [1.0, 1, 1e3, 0.1, 1e-9, 1e-5, 1.5e-5, -1e-5, 0.0001, 1e16, 1e15, 1.5e300]},
            '{"a":[1.0,1,1000.0,0.1,1e-9,0.00001,0.000015,-0.00001,0.0001,1e16,1000000000000000.0,1.5e300]}',
        ),
        ({"a": [{"y": 1, "x": {}}, [], None]}, '{"a":[{"x":{},"y":1},[],null]}'),
        ({"a": 2**64}, '{"a":1.8446744073709552e19}'),
    ],
)
def test_canonical_text(document: Any, text: str) -> None:
    assert canonical_text(document) == text


def test_decoding_numbers() -> None:
    text = (
        '{"a":[18446744073709551615,18446744073709551616,-9223372036854775808,-9223372036854775809,-0,1E5]}'
    )
    numbers = json_text.decode(text)["a"]
    assert numbers == [2**64 - 1, 2.0**64, -(2**63), -(2.0**63), 0.0, 1e5]
    assert [type(number) for number in numbers] == [int, float, int, float, float, float]


def test_flat_lines_are_sorted_as_text() -> None:
    assert flat_lines({"a": 1, "a.b": "x", "a-b": []}) == ["a-b=[]", 'a.b="x"', "a=1"]


def test_the_last_of_a_repeated_key_counts() -> None:
    assert json_text.decode('{"a":1,"a":2}') == {"a": 2}


@pytest.mark.parametrize(
    "work", [flatten, expand, canonical_text, lambda one: merge(one, {}), lambda one: patch(one, {})]
)
def test_depth_limit(work: Any) -> None:
    def nested(levels: int) -> Any:
        document: Any = 1
        for _ in range(levels):
            document = {"a": document}
        return document

    work(nested(64))
    with pytest.raises(PropertyError, match="64 levels"):
        work(nested(65))


def test_dotted_names_have_the_same_limit() -> None:
    flatten({".".join("a" * 64): 1})
    expand({".".join("a" * 64): 1})
    for work in (flatten, expand):
        with pytest.raises(PropertyError, match="64"):
            work({".".join("a" * 65): 1})


def test_count_limit() -> None:
    flatten({str(number): 1 for number in range(4096)})
    with pytest.raises(PropertyError, match="4096"):
        flatten({str(number): 1 for number in range(4097)})
