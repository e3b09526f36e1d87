"""Property literals: the text after `name=` in the flat form, and what JSON values become by way of it.

Reading has two stages, which the original daemon keeps apart: `read_form` finds the literal's form, `value_of` reads
its content. Properties from JSON go through the same text in the original, with consequences that are kept here: a
string with an escape other than `\\"`, `\\\\`, `\\n`, `\\t`, `\\0` has no form, escapes are not decoded, and blanks at
the start of a string are lost. Called by `property_set`.
"""

from __future__ import annotations

import re
from decimal import Decimal
from json.encoder import encode_basestring
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

from protocols.market.language import json_text
from protocols.market.language.limits import MAX_DEPTH
from protocols.market.language.values import Instant, Version, read_decimal, read_instant, read_version

if TYPE_CHECKING:
    from protocols.market.language.values import Value

Kind: TypeAlias = Literal["string", "number", "boolean", "decimal", "version", "datetime", "list"]

_BLANKS = re.compile(r"[ \t\r\n]*+")
_STRING_BODY = re.compile(r'(?:[^\\"]++|\\["nt0\\])*+')
_JSON_STRING_BODY = re.compile(r'(?:[^\\]++|\\["nt\\])*+')
_NUMBER = re.compile(r"[+-]?[0-9]++(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?", re.ASCII)
_QUOTED: dict[str, Kind] = {'v"': "version", 't"': "datetime", 'd"': "decimal"}
_WORDS = (
    ("true", True),
    ("True", True),
    ("TRUE", True),
    ("false", False),
    ("False", False),
    ("FALSE", False),
)


class Form(msgspec.Struct, frozen=True):
    """A literal whose form is right; its content may still not be a value."""

    kind: Kind
    content: str | bool | tuple["Form", ...]
    """A list's items, a boolean's value, else the text between the quotes or of the number."""


def read_form(text: str) -> Form | None:
    """Return the form of the literal that is all of `text`, or None."""
    found = _form_at(text, 0, 0)
    return found[0] if found and found[1] == len(text) else None


def value_of(form: Form) -> Value | None:
    """Return the value of a form, or None where the content is not of the type; one bad item spoils a list."""
    content: Any = form.content
    match form.kind:
        case "string" | "boolean":
            value: Value = content
            return value
        case "number":
            return float(content)
        case "decimal":
            return read_decimal(content)
        case "version":
            return read_version(content)
        case "datetime":
            return read_instant(content)
        case "list":
            items = [value_of(item) for item in content]
            return None if None in items else tuple(item for item in items if item is not None)


def read_literal(text: str) -> Value | None:
    """Return the value that a literal stands for, or None."""
    form = read_form(text)
    return None if form is None else value_of(form)


def literal_of_json(value: Any) -> Value | None:
    """Return what `read_literal` makes of a JSON value's compact text, without writing that text out."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        body = encode_basestring(value)[1:-1].lstrip(" ")
        return body if _JSON_STRING_BODY.fullmatch(body) else None
    if isinstance(value, (int, float)):
        return float(value)
    if isinstance(value, list):
        items = [literal_of_json(item) for item in value]
        return None if None in items else tuple(item for item in items if item is not None)
    return None


def literal_text(value: object) -> str:
    """Return a value as a literal, for people to read."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return f'"{value}"'
        case Version(text=text):
            return f'v"{text}"'
        case Decimal():
            return f'd"{value}"'
        case Instant():
            return f't"{value}"'
        case tuple():
            return f"[{','.join(map(literal_text, value))}]"
        case _:
            return json_text.encode(value).removesuffix(".0")


def _form_at(text: str, start: int, depth: int) -> tuple[Form, int] | None:
    """Return the form that starts at `start`, and where what follows it starts."""
    at = _skip(text, start)
    if text.startswith('"', at):
        return _string_at(text, at)
    quoted = _QUOTED.get(text[at : at + 2])
    if quoted:
        begin = _skip(text, at + 2)
        end = text.find('"', begin)
        return None if end < 0 else (Form(quoted, text[begin:end]), _skip(text, end + 1))
    for word, truth in _WORDS:
        if text.startswith(word, at):
            return Form("boolean", truth), _skip(text, at + len(word))
    number = _NUMBER.match(text, start)
    if number:
        # Unlike the others, a number takes no blanks around it.
        return Form("number", number.group()), number.end()
    if text.startswith("[", at) and depth < MAX_DEPTH:
        return _list_at(text, at, depth)
    return None


def _string_at(text: str, at: int) -> tuple[Form, int] | None:
    begin = _skip(text, at + 1)
    body = _STRING_BODY.match(text, begin)
    assert body is not None
    end = body.end()
    return (Form("string", text[begin:end]), _skip(text, end + 1)) if text.startswith('"', end) else None


def _list_at(text: str, at: int, depth: int) -> tuple[Form, int] | None:
    items: list[Form] = []
    end = _skip(text, at + 1)
    found = _form_at(text, end, depth + 1)
    while found:
        items.append(found[0])
        end = found[1]
        found = _form_at(text, end + 1, depth + 1) if text.startswith(",", end) else None
    end = _skip(text, end)
    return (Form("list", tuple(items)), _skip(text, end + 1)) if text.startswith("]", end) else None


def _skip(text: str, at: int) -> int:
    found = _BLANKS.match(text, at)
    return found.end() if found else at
