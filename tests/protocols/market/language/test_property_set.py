"""Typed property sets, from JSON and from the flat form."""

from __future__ import annotations

import gc
import hashlib
from typing import Any

import pytest
from hypothesis import given

from protocols.market.language import VALUELESS, PropertyError, PropertySet, flat_lines
from tests.protocols.market.language import strategies


def test_values_are_typed() -> None:
    properties = PropertySet.from_text('{"a":{"b":1,"c":"x"},"l":["y",true],"n":null,"o":{},"r":"\\r"}')
    assert properties.values == {"a.b": 1.0, "a.c": "x", "l": ("y", True)}
    assert "a.b" in properties
    assert "n" not in properties
    assert len(properties) == 3
    assert properties.get("a.c") == "x"
    assert properties.get("o") is None


@given(strategies.documents)
def test_json_and_its_flat_form_agree(document: Any) -> None:
    from_json = PropertySet.from_json(document, require_object=False)
    by_name = PropertySet.from_flat(flat_lines(document))
    # Two names may fall together where one has a "=" in it; which comes last then depends on the order.
    if not any("=" in name for name in _names(document)):
        assert from_json.values == by_name.values


def _names(document: Any) -> set[str]:
    if not isinstance(document, dict):
        return set()
    return set(document).union(*map(_names, document.values()))


def test_a_name_ends_at_the_first_equals_sign() -> None:
    assert PropertySet.from_text('{"a=b":1,"a":2}').values == {"a": 2.0}
    assert PropertySet.from_flat(["a=b=c", "x=1=2"]).values == {}


def test_flat_form() -> None:
    properties = PropertySet.from_flat(
        ["a=1", "a=2", "b", 'c="x"', "c=null", "d=1", "d"],
        [("c", "unit", "m"), ("b", "unit", "m"), ("z", "unit", "m")],
    )
    assert properties.values == {"a": 2.0, "b": VALUELESS, "c": "x", ("c", "unit"): "m", "d": VALUELESS}


def test_equal_properties_are_one_object() -> None:
    first = PropertySet.from_text('{"a":{"b":1}}')
    assert PropertySet.from_text(' {"a.b": 1}') is first
    assert PropertySet.from_json({"a": {"b": 1}}) is first
    assert PropertySet.from_json({"a": {"b": 1.0}}) is not first
    assert first.digest == hashlib.sha256(b'{"a.b":1}').digest()


def test_interning_keeps_nothing_alive() -> None:
    from protocols.market.language import constraint, property_set

    held = PropertySet.from_text('{"only":"here"}'), constraint.Constraint.parse("(only=here)")
    assert '{"only":"here"}' in property_set._interned
    assert "(only=here)" in constraint._by_spelling
    del held
    gc.collect()
    assert '{"only":"here"}' not in property_set._interned
    assert "(only=here)" not in constraint._by_spelling


def test_an_object_is_required_unless_told_otherwise() -> None:
    for text in ("5", "[1]", '"x"', "null"):
        with pytest.raises(PropertyError, match="not a JSON object"):
            PropertySet.from_text(text)
    assert PropertySet.from_text("5", require_object=False).values == {"": 5.0}
    assert PropertySet.from_text("{}").values == {}


def test_size_limit_holds_for_the_flat_text() -> None:
    name = "n" * 1000
    document = {name: {str(number): 1 for number in range(100)}}
    with pytest.raises(PropertyError, match="when flat"):
        PropertySet.from_json(document)
