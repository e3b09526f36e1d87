"""Property literals, and JSON values read by way of them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given

from protocols.market.language import json_text
from protocols.market.language.literals import Form, literal_of_json, literal_text, read_form, read_literal
from protocols.market.language.values import Instant, Value, read_version
from tests.protocols.market.language import strategies


@pytest.mark.parametrize(
    ("literal", "value"),
    [
        ('"x"', "x"),
        ('""', ""),
        ('  "x" ', "x"),
        ('"  x "', "x "),
        ('"a\\"b"', 'a\\"b'),
        ('"a\\\\"', "a\\\\"),
        ('"a\\n\\t\\0"', "a\\n\\t\\0"),
        ('"a\nb"', "a\nb"),
        ("5", 5.0),
        ("-4.5", -4.5),
        ("+1e-7", 1e-7),
        ("007", 7.0),
        ("18446744073709551615", 2.0**64),
        ("true", True),
        ("True", True),
        (" TRUE ", True),
        ("false", False),
        ("False", False),
        ("FALSE", False),
        ('d"123.450"', Decimal("123.45")),
        ('v"1.2.3"', read_version("1.2.3")),
        ('v" 1.2.3"', read_version("1.2.3")),
        ('t"1996-12-19T16:39:57-07:00"', Instant(851038797, 0)),
        ("[]", ()),
        ("[ ]", ()),
        ('["a" , "b" ]', ("a", "b")),
        ('[1,[true,"x"]]', (1.0, (True, "x"))),
        ("[ 1 ]", (1.0,)),
    ],
)
def test_values(literal: str, value: Value) -> None:
    found = read_literal(literal)
    assert found == value
    assert type(found) is type(value)


NO_VALUES = (
    *("", "null", "{}", "x", "Babs Jensen", "tRUE", "truex", "124asdas234", ".5", "5.", " 5", "5 "),
    *("1e", "-", '"a', 'a"', '"a\\r"', '"a\\u0041"', '"a\\/"', '"a"b', 'y"x"', 'd"12x"', 'v"1.0"'),
    *('t"2020-01-01"', 'v"1.0.0', "[", "[1", "[1,]", "[,1]", "[1 ,2]", "[1, 2]", "[1,null]"),
    *('[{"x":1}]', "[1]]", "[" * 66 + "]" * 66),
)


@pytest.mark.parametrize("literal", NO_VALUES)
def test_no_values(literal: str) -> None:
    assert read_literal(literal) is None


def test_form_and_content_are_read_apart() -> None:
    assert read_form('d"12x"') == Form("decimal", "12x")
    assert read_form('[v"x",true]') == Form("list", (Form("version", "x"), Form("boolean", True)))


def test_only_blanks_of_the_grammar_are_lost() -> None:
    assert literal_of_json("  \u00a0x ") == "\u00a0x "
    assert literal_of_json("\u2003x") == "\u2003x"
    assert literal_of_json("\nx") == "\\nx"


@given(strategies.documents)
def test_json_gives_what_its_text_gives(document: Any) -> None:
    assert literal_of_json(document) == read_literal(json_text.encode(document))


PRINTED = (
    *('"x y"', "true", '[1,"x",[false]]', 'v"1.0.0-rc1"', 'd"0.50"', "2.5", "8", "1e300"),
    *("-0.00001",),
)


@pytest.mark.parametrize("literal", PRINTED)
def test_values_print_as_literals(literal: str) -> None:
    value = read_literal(literal)
    assert literal_text(value) == literal


@pytest.mark.parametrize(
    ("instant", "text"),
    [
        ("2020-02-29T01:00:00.5+01:00", "2020-02-29T00:00:00.5Z"),
        ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00Z"),
        ("2016-12-31T23:59:60.25Z", "2016-12-31T23:59:60.25Z"),
        ("0000-03-01T00:00:00+01:00", "0000-02-29T23:00:00Z"),
    ],
)
def test_instants_print_in_utc(instant: str, text: str) -> None:
    assert literal_text(read_literal(f't"{instant}"')) == f't"{text}"'
