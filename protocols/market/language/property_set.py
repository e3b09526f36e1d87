"""Properties as constraints see them: parsed once to typed values, looked up by name.

A set is made once per offer or demand and evaluated against many constraints. Properties that have no value the
language knows (null, objects, unusual escapes) are absent from it, as they are for the original. Called by the
matcher, negotiation and whoever else evaluates a constraint.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

from protocols.market.language import json_text
from protocols.market.language.errors import PropertyError
from protocols.market.language.limits import MAX_PROPERTIES, MAX_TEXT_BYTES, exceeds_text_limit
from protocols.market.language.literals import literal_of_json, read_literal
from protocols.market.language.properties import flatten_checked

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from protocols.market.language.json_text import Json
    from protocols.market.language.values import Value


class Valueless:
    """The type of VALUELESS."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "VALUELESS"


VALUELESS: Final = Valueless()
"""Stands for the value of a property that is declared by name alone: present, but nothing compares with it."""


class PropertySet:
    """An immutable set of typed properties.

    `from_json` and `from_text` intern: as long as one is in use, equal properties give the same object.
    """

    __slots__ = ("__weakref__", "_digest", "text", "values")

    def __init__(self, values: Mapping[str | tuple[str, str], Value | Valueless], text: str) -> None:
        """Wrap what was parsed; use `from_json`, `from_text` or `from_flat`."""
        self.values: Final = dict(values)
        """Value by name; an aspect's text by (name, aspect)."""
        self.text: Final = text
        """The canonical JSON text; of a set from the flat form, its lines and aspects."""
        self._digest: bytes | None = None

    @classmethod
    def from_text(cls, text: str, *, require_object: bool = True) -> PropertySet:
        """Return the set that a JSON document holds.

        Args:
            text: nested, dotted or flat JSON.
            require_object: refuse a bare value or list; without it, one is a property without a name.

        Raises:
            PropertyError: not JSON, or beyond the limits.
        """
        document = json_text.decode(text)
        return cls._from_document(document, require_object)

    @classmethod
    def from_json(cls, document: Json, *, require_object: bool = True) -> PropertySet:
        """Return the set that a decoded JSON document holds; otherwise as `from_text`."""
        json_text.check(document)
        return cls._from_document(document, require_object)

    @classmethod
    def from_flat(cls, lines: Iterable[str], aspects: Iterable[tuple[str, str, str]] = ()) -> PropertySet:
        """Return the set of `name=literal` lines; a line without `=` is a property without a value.

        Lines whose literal cannot be read are ignored; of several for one name, the last that can be counts.

        Args:
            lines: the flat form.
            aspects: (name, aspect, text) of annotations; those of absent or value-less properties are ignored.

        Raises:
            PropertyError: beyond the limits.
        """
        values: dict[str | tuple[str, str], Value | Valueless] = {}
        text: list[str] = []
        size = 0
        for line in lines:
            text.append(line)
            size += len(line) + 1
            if size > MAX_TEXT_BYTES:
                raise PropertyError(f"the properties take more than {MAX_TEXT_BYTES} bytes")
            _put_line(values, line)
            if len(values) > MAX_PROPERTIES:
                raise PropertyError(f"there are more than {MAX_PROPERTIES} properties")
        for name, aspect, content in aspects:
            text.append(f"{name}[{aspect}]={content}")
            if values.get(name, VALUELESS) is not VALUELESS:
                values[name, aspect] = content
        return cls(values, "\n".join(text))

    @classmethod
    def _from_document(cls, document: Json, require_object: bool) -> PropertySet:
        if require_object and not isinstance(document, dict):
            raise PropertyError("the properties are not a JSON object")
        flat = flatten_checked(document)
        text = json_text.encode(flat)
        if exceeds_text_limit(text):
            raise PropertyError(f"the properties take more than {MAX_TEXT_BYTES} bytes when flat")
        known = _interned.get(text)
        if known is None:
            known = _interned[text] = cls(_typed(flat), text)
        return known

    @property
    def digest(self) -> bytes:
        """The SHA-256 of `text`: 32 bytes that name the content."""
        if self._digest is None:
            self._digest = hashlib.sha256(self.text.encode("utf-8", "surrogatepass")).digest()
        return self._digest

    def get(self, name: str) -> Value | Valueless | None:
        """Return a property's value, VALUELESS, or None where it is absent."""
        return self.values.get(name)

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        return f"<PropertySet of {len(self.values)}>"


_interned: WeakValueDictionary[str, PropertySet] = WeakValueDictionary()


def _typed(flat: Mapping[str, Json]) -> dict[str | tuple[str, str], Value | Valueless]:
    values: dict[str | tuple[str, str], Value | Valueless] = {}
    for name, value in flat.items():
        if "=" in name:
            # The flat form's name ends at the first "=", whoever put it there.
            _put_line(values, f"{name}={json_text.encode(value)}")
            continue
        typed = literal_of_json(value)
        if typed is not None:
            values[name] = typed
    return values


def _put_line(values: dict[str | tuple[str, str], Value | Valueless], line: str) -> None:
    name, separator, literal = line.partition("=")
    value = read_literal(literal) if separator else VALUELESS
    if value is not None:
        values[name] = value
