"""Where our property language deviates from the original's on purpose, as rules that a program can apply.

A rule looks at the inputs of a vector, never at its id or its expected answer, and says whether what the rule
describes can matter there. `tests.vectors` counts a difference as a deviation only where a rule applies. The table in
`docs/language.md` lists the same rules; a test compares the two.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from protocols.market.language import MAX_DEPTH, MAX_PROPERTIES, MAX_TERMS, LanguageError, PropertySet, parse
from protocols.market.language.expression import And, Comparison, Expression, Not, Or
from protocols.market.language.limits import exceeds_text_limit
from protocols.market.language.literals import read_form
from protocols.market.language.values import Version, read_decimal, read_list, read_version
from protocols.market.language.wildcard import matches

if TYPE_CHECKING:
    from decimal import Decimal

Vector = dict[str, Any]


class Rule(msgspec.Struct, frozen=True):
    """One deliberate deviation."""

    name: str
    text: str
    """What differs, and why."""
    applies: Callable[[Vector], bool]
    """Takes a vector's inputs."""


def rules_for(vector: Vector) -> list[Rule]:
    """Return the rules that apply to the vector's inputs."""
    return [rule for rule in RULES if rule.applies(vector)]


def _wildcards_are_literal(vector: Vector) -> bool:
    """Tell whether some pattern and some text in it agree as a plain wildcard but not as a regular expression."""
    for comparison, properties in _compared(vector):
        if comparison.operator != "=" or "*" not in comparison.operand:
            continue
        value = properties.get(comparison.reference.name)
        wanted = read_list(comparison.operand) if isinstance(value, tuple) else None
        patterns = (comparison.operand,) if wanted is None else wanted
        if any(_reads_otherwise(pattern, text) for pattern in patterns for text in _texts(value)):
            return True
    return False


def _scalars_are_strict(vector: Vector) -> bool:
    """Tell whether some text that is compared as a version or decimal is one to only one of the two readings."""
    if vector.get("kind") == "literal":
        return any(_is_disputed(kind, text) for kind, text in _quoted(vector.get("literal")))
    for comparison, properties in _compared(vector):
        value = properties.get(comparison.reference.name)
        wanted = {"v": "version", "d": "decimal"}.get(comparison.reference.coercion or "")
        kinds = {wanted} if wanted else {_kind(item) for item in _items(value)}
        texts = [comparison.operand, *_texts(value)]
        if any(kind and _is_disputed(kind, text) for kind in kinds for text in texts):
            return True
    return any(
        _is_disputed(kind, text)
        for line in _flat_lines(vector)
        for kind, text in _quoted(line.partition("=")[2])
    )


def _is_beyond_limits(vector: Vector) -> bool:
    """Tell whether a text is too long, or nested or repeated beyond a limit."""
    texts = [value for value in vector.values() if isinstance(value, str)]
    if any(exceeds_text_limit(text) for text in texts):
        return True
    constraints = [vector.get(key) for key in ("constraint", "demand_constraints", "offer_constraints")]
    if any(isinstance(text, str) and _has_many_filters(text) for text in constraints):
        return True
    for lines in (vector.get(key) for key in ("flat_properties", "demand_flat", "offer_flat")):
        if isinstance(lines, list) and (
            len(lines) > MAX_PROPERTIES or exceeds_text_limit("\n".join(map(str, lines)))
        ):
            return True
    documents = [vector.get(key) for key in ("input", "other")]
    for key in ("properties_json", "demand_properties", "offer_properties"):
        try:
            documents.append(json.loads(vector.get(key, "null")))
        except (ValueError, TypeError):
            continue
        except RecursionError:
            return True
    return any(_size_beyond_limits(document) for document in documents) or _nests_beyond(
        vector.get("literal")
    )


RULES = (
    Rule(
        "literal-wildcards",
        "In a string equality with `*`, every other character stands for itself; the original reads the operand as a "
        "regular expression.",
        _wildcards_are_literal,
    ),
    Rule(
        "strict-scalars",
        "Versions are SemVer 2.0.0 and decimals are sign, digits, point and exponent; the original's libraries differ "
        "on hyphens and leading zeros in pre-releases, blanks around versions, and `_` or a sign inside decimals.",
        _scalars_are_strict,
    ),
    Rule(
        "input-limits",
        "Texts, nesting and counts are bounded, and what is beyond is an error; the original has no bounds.",
        _is_beyond_limits,
    ),
)


def _reads_otherwise(pattern: str, text: str) -> bool:
    """Tell whether a pattern, read as the original's regular expression, gives another answer for `text`."""
    if not _SPECIAL.search(pattern) and "\n" not in text:
        return False
    pattern = re.sub(r"\*+", "*", pattern)
    if pattern.count("*") > 6 or len(text) > 200:
        # Backtracking could take for ever; a pattern with so much in it may well read otherwise.
        return True
    try:
        found = re.search(f"\\A{pattern.replace('*', '.*')}\\Z", text) is not None
    except re.error:
        found = False
    return found != matches(pattern, text)


_SPECIAL = re.compile(r"[.+?^$|{}()\[\]\\]")

# What semver-parser 0.10 and bigdecimal 0.2 take, as far as it differs from values.py.
_LOOSE = {
    "version": re.compile(
        r"[ \t\r\n]*(?:0|[1-9][0-9]*)(?:\.(?:0|[1-9][0-9]*)){2}(?:-[0-9A-Za-z]+(?:\.[0-9A-Za-z]+)*)?"
        r"(?:\+[0-9A-Za-z]+(?:\.[0-9A-Za-z]+)*)?[ \t\r\n]*"
    ),
    "decimal": re.compile(r"[+-]?[0-9_]*\.?[+-]?[0-9_]*(?:[eE]\+?[+-]?[0-9]+)?"),
}
_STRICT: dict[str, Callable[[str], Version | Decimal | None]] = {
    "version": read_version,
    "decimal": read_decimal,
}


def _is_disputed(kind: str, text: str) -> bool:
    if kind not in _LOOSE or not any(character.isdigit() for character in text):
        return False
    return (_LOOSE[kind].fullmatch(text) is not None) != (_STRICT[kind](text) is not None)


def _quoted(literal: object) -> Iterator[tuple[str, str]]:
    """Yield the kind and content of every version and decimal in a literal."""
    form = read_form(literal) if isinstance(literal, str) else None
    forms = [form] if form else []
    while forms:
        one = forms.pop()
        if isinstance(one.content, tuple):
            forms += one.content
        elif isinstance(one.content, str):
            yield one.kind, one.content


def _compared(vector: Vector) -> Iterator[tuple[Comparison, PropertySet]]:
    """Yield every comparison of the vector's constraints with the properties that it is evaluated against."""
    sides = (
        ("constraint", "flat_properties"),
        ("demand_constraints", "offer_flat"),
        ("offer_constraints", "demand_flat"),
        ("demand_constraints", "offer_properties"),
        ("offer_constraints", "demand_properties"),
    )
    for constraint, properties in sides:
        if constraint in vector and properties in vector:
            try:
                tree = parse(vector[constraint])
                given = vector[properties]
                found = (
                    PropertySet.from_flat(given) if isinstance(given, list) else PropertySet.from_text(given)
                )
            except (LanguageError, TypeError, AttributeError):
                continue
            for comparison in _comparisons(tree):
                yield comparison, found


def _comparisons(tree: Expression) -> Iterator[Comparison]:
    match tree:
        case Comparison():
            yield tree
        case And(items=items) | Or(items=items):
            for item in items:
                yield from _comparisons(item)
        case Not(item=item):
            yield from _comparisons(item)


def _items(value: Any) -> Iterator[Any]:
    if isinstance(value, tuple):
        for item in value:
            yield from _items(item)
    else:
        yield value


def _texts(value: Any) -> list[str]:
    return [item for item in _items(value) if isinstance(item, str)]


def _kind(value: Any) -> str | None:
    return {"Version": "version", "Decimal": "decimal"}.get(type(value).__name__)


def _flat_lines(vector: Vector) -> list[str]:
    lines = [
        *vector.get("flat_properties", ()),
        *vector.get("demand_flat", ()),
        *vector.get("offer_flat", ()),
    ]
    return [line for line in lines if isinstance(line, str)]


def _has_many_filters(text: str) -> bool:
    depth = deepest = 0
    for character in text:
        depth += (character == "(") - (character == ")")
        deepest = max(deepest, depth)
    return deepest > MAX_DEPTH or text.count("(") + text.count(",") > MAX_TERMS


def _size_beyond_limits(document: Any) -> bool:
    members, level = 0, [document]
    for _ in range(MAX_DEPTH + 1):
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                members += len(item)
                if any(key.count(".") >= MAX_DEPTH // 2 for key in item):
                    return True
                below += item.values()
            elif isinstance(item, list):
                below += item
        if members > MAX_PROPERTIES:
            return True
        level = below
    return bool(level)


def _nests_beyond(literal: object) -> bool:
    return isinstance(literal, str) and literal.count("[") > MAX_DEPTH
