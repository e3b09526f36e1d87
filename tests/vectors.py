"""Runs a file of test vectors of the property language: `python -m tests.vectors FILE.jsonl [--json]`.

One JSON object a line; the fields of each kind are in `docs/language.md`. With `--json` it prints one object,
`{"total", "passed", "deviations", "failed", "differences"}`, where `total` is the sum of the three counts that follow
it and each difference is `{"id", "kind", "expected", "actual"}`; without, a summary. A difference that a rule of
`tests.vector_rules` explains counts as a deviation. A line that is no vector counts as failed. The exit code is 1 if
any failed, 2 if the file cannot be read.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from protocols.market.language import (
    Constraint,
    LanguageError,
    MatchResult,
    PropertySet,
    expand,
    flat_lines,
    json_text,
    match,
    merge,
    parse,
    parse_reference,
    patch,
    to_text,
)
from protocols.market.language.expression import (
    FALSE,
    TRUE,
    And,
    Comparison,
    Const,
    Expression,
    Not,
    Or,
    Present,
)
from protocols.market.language.literals import Form, read_form, value_of
from protocols.market.language.values import (
    Instant,
    Version,
    read_decimal,
    read_instant,
    read_list,
    read_version,
)
from tests.vector_rules import Rule, Vector, rules_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

ERROR = "error"
_ABSENT = object()


class Difference(msgspec.Struct, frozen=True):
    """A vector whose answer is not the expected one, or a line that is no vector."""

    id: str | None
    kind: str | None
    expected: Any
    actual: Any
    rules: tuple[str, ...] = ()
    """The deviations that explain it; none means that it failed."""


class Malformed(Exception):
    """A line that is not a vector of a known kind."""


def run(lines: Iterable[bytes | str]) -> dict[str, Any]:
    """Return the counts, and every difference, of the vectors in `lines`; blank lines do not count."""
    total, differences = 0, []
    for number, line in enumerate(lines, 1):
        if line.strip():
            total += 1
            difference = check_line(line, number)
            if difference:
                differences.append(difference)
    deviations = sum(bool(one.rules) for one in differences)
    return {
        "total": total,
        "passed": total - len(differences),
        "deviations": deviations,
        "failed": len(differences) - deviations,
        "differences": differences,
    }


def check_line(line: bytes | str, number: int) -> Difference | None:
    """Return the difference that a line makes, if it makes one."""
    try:
        vector = json.loads(line, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        return Difference(f"line {number}", None, "a JSON object", f"not JSON: {error}")
    if not isinstance(vector, dict):
        return Difference(f"line {number}", None, "a JSON object", f"a {type(vector).__name__}")
    identity = str(vector["id"]) if "id" in vector else f"line {number}"
    kind = vector.get("kind")
    try:
        check = _CHECKS.get(kind) if isinstance(kind, str) else None
        if check is None:
            raise Malformed(f"unknown kind {kind!r}; known: {', '.join(_CHECKS)}")
        found = check(vector)
    except Malformed as error:
        return Difference(identity, _text_or_none(kind), vector.get("expected"), f"malformed vector: {error}")
    except Exception as error:  # an answer that crashes is a wrong answer, and the other vectors still count
        actual = f"crashed: {type(error).__name__}: {error}"
        return Difference(identity, _text_or_none(kind), vector.get("expected"), actual)
    if found is None:
        return None
    return Difference(identity, _text_or_none(kind), *found, tuple(rule.name for rule in _rules(vector)))


Found = tuple[Any, Any] | None
"""What was expected and what came, where they differ."""


def _check_resolve(vector: Vector) -> Found:
    expected = _field(vector, "expected", str)
    constraint_text = _field(vector, "constraint", str)
    flat = _texts(vector, "flat_properties")
    aspects = _aspects(vector, "aspects")
    try:
        resolution = Constraint.parse(constraint_text).resolve(PropertySet.from_flat(flat, aspects))
    except LanguageError:
        return _verdict_differs(vector, expected, ERROR)
    if resolution.verdict.value == vector.get("desired"):
        return None
    actual: dict[str, Any] = {
        "expected": resolution.verdict.value,
        "unresolved": _references(resolution.unresolved),
        "reduced": _reprint(to_text(resolution.reduced)),
    }
    wanted: dict[str, Any] = {"expected": expected}
    if vector.get("unresolved") is not None:
        wanted["unresolved"] = _references(_texts(vector, "unresolved"))
    if vector.get("reduced") is not None:
        wanted["reduced"] = _reprint(_field(vector, "reduced", str))
    return _differing(wanted, actual)


def _check_match(vector: Vector) -> Found:
    def properties(party: str) -> PropertySet:
        return PropertySet.from_text(_field(vector, f"{party}_properties", str), require_object=False)

    return _match(vector, properties)


def _check_match_flat(vector: Vector) -> Found:
    def properties(party: str) -> PropertySet:
        return PropertySet.from_flat(_texts(vector, f"{party}_flat"), _aspects(vector, f"{party}_aspects"))

    return _match(vector, properties)


def _match(vector: Vector, properties: Callable[[str], PropertySet]) -> Found:
    expected = _field(vector, "expected", str)
    texts = {party: _field(vector, f"{party}_constraints", str) for party in ("demand", "offer")}
    try:
        demand, offer = properties("demand"), properties("offer")
        result: MatchResult = match(
            demand, Constraint.parse(texts["demand"]), offer, Constraint.parse(texts["offer"])
        )
    except LanguageError:
        return _verdict_differs(vector, expected, ERROR)
    if result.verdict.value == vector.get("desired"):
        return None
    actual: dict[str, Any] = {
        "expected": result.verdict.value,
        "demand_mismatch": _references(result.demand_mismatch),
        "offer_mismatch": _references(result.offer_mismatch),
    }
    wanted: dict[str, Any] = {"expected": expected}
    for key in ("demand_mismatch", "offer_mismatch"):
        if vector.get(key) is not None:
            wanted[key] = _references(_texts(vector, key))
    return _differing(wanted, actual)


def _check_parse(vector: Vector) -> Found:
    expected = _field(vector, "expected", str)
    try:
        tree = parse(_field(vector, "constraint", str))
    except LanguageError:
        return _verdict_differs(vector, expected, ERROR)
    if to_text(tree) == vector.get("desired"):
        return None
    wanted: dict[str, Any] = {"expected": _reprint(expected)}
    actual: dict[str, Any] = {"expected": _reprint(to_text(tree))}
    if vector.get("ast") is not None:
        wanted["ast"], actual["ast"] = to_text(_tree(vector["ast"])), to_text(tree)
    return _differing(wanted, actual)


def _check_literal(vector: Vector) -> Found:
    kind, _, note = _field(vector, "expected_type", str).partition("(")
    kind = kind.strip()
    form = read_form(_field(vector, "literal", str))
    stage = str(vector.get("stage", "")).lower()
    if "syntax" in note or any(word in stage for word in ("syntax", "pars", "form", "lex")):
        actual_kind: str = form.kind if form else ERROR
        actual_value: Any = _form_content(form) if form else None
        is_same = kind in ("", actual_kind) if form else kind == ERROR
    else:
        value = value_of(form) if form else None
        actual_kind = form.kind if form and value is not None else ERROR
        actual_value, is_same = value, kind == actual_kind
    if is_same and actual_kind != ERROR and vector.get("expected_value") is not None:
        is_same = _equals_json(actual_value, vector["expected_value"])
    if is_same:
        return None
    wanted = [vector["expected_type"], vector.get("expected_value")]
    return wanted, [actual_kind, None if actual_value is None else str(actual_value)]


def _check_flatten(vector: Vector) -> Found:
    try:
        actual: Any = flat_lines(json_text.decode(_field(vector, "properties_json", str)))
    except LanguageError:
        actual = ERROR
    expected = _expected(vector)
    wanted = (
        sorted(map(_plain_exponent, _texts(vector, "expected"))) if isinstance(expected, list) else expected
    )
    return None if wanted == actual else (expected, actual)


def _check_document(vector: Vector) -> Found:
    expected, given = _expected(vector), vector.get("input", _ABSENT)
    other = vector.get("other", _ABSENT)
    if given is _ABSENT or (vector["kind"] != "expand" and other is _ABSENT):
        raise Malformed("no input, or no other")
    try:
        json_text.check([given, None if other is _ABSENT else other])
        if vector["kind"] == "expand":
            actual = expand(given)
        else:
            actual = (merge if vector["kind"] == "merge" else patch)(given, other)
    except LanguageError:
        return _verdict_differs(vector, expected, ERROR)
    # By text, as 1, 1.0 and true are equal to Python.
    return None if json_text.encode(actual) == json_text.encode(expected) else (expected, actual)


def _check_definition(vector: Vector) -> Found:
    name, separator, value = _field(vector, "input", str).partition("=")
    wanted = [_field(vector, "expected_name", str), vector.get("expected_value")]
    actual = [name, value if separator else None]
    return None if wanted == actual else (wanted, actual)


def _check_reference(vector: Vector) -> Found:
    reference, expected = parse_reference(_field(vector, "input", str)), _expected(vector)
    if reference is None:
        return None if expected == ERROR else (expected, ERROR)
    actual = {"name": reference.name, "aspect": reference.aspect, "type": reference.coercion}
    wanted = {"aspect": None, "type": None, **expected} if isinstance(expected, dict) else expected
    return None if wanted == actual else (expected, actual)


def _check_list_operand(vector: Vector) -> Found:
    items, expected = read_list(_field(vector, "input", str)), _expected(vector)
    actual = ERROR if items is None else list(items)
    return None if expected == actual else (expected, actual)


def _check_property_references(vector: Vector) -> Found:
    expected = _expected(vector)
    try:
        actual: Any = list(Constraint.parse(_field(vector, "constraint", str)).references)
    except LanguageError:
        actual = ERROR
    wanted = sorted(set(_references(_texts(vector, "expected")))) if isinstance(expected, list) else expected
    return None if wanted == actual else (expected, actual)


_CHECKS: dict[str, Callable[[Vector], Found]] = {
    "resolve": _check_resolve,
    "match": _check_match,
    "match_flat": _check_match_flat,
    "parse": _check_parse,
    "literal": _check_literal,
    "flatten": _check_flatten,
    "expand": _check_document,
    "merge": _check_document,
    "patch": _check_document,
    "prop_def": _check_definition,
    "prop_ref": _check_reference,
    "list_operand": _check_list_operand,
    "property_refs": _check_property_references,
}


def _verdict_differs(vector: Vector, expected: Any, actual: str) -> Found:
    return None if actual in (expected, vector.get("desired", _ABSENT)) else (expected, actual)


def _differing(wanted: dict[str, Any], actual: dict[str, Any]) -> Found:
    keys = [key for key in wanted if wanted[key] != actual[key]]
    if not keys:
        return None
    if keys == ["expected"] == list(wanted):
        return wanted["expected"], actual["expected"]
    return {key: wanted[key] for key in keys}, {key: actual[key] for key in keys}


def _expected(vector: Vector) -> Any:
    if "expected" not in vector:
        raise Malformed("no expected")
    return vector["expected"]


def _field(vector: Vector, name: str, kind: type[str]) -> str:
    value = vector.get(name)
    if not isinstance(value, kind):
        raise Malformed(f"{name} has to be a string")
    return value


def _texts(vector: Vector, name: str) -> list[str]:
    value = vector.get(name)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise Malformed(f"{name} has to be a list of strings")
    return value


def _aspects(vector: Vector, name: str) -> list[tuple[str, str, str]]:
    aspects = vector.get(name) or []
    if not isinstance(aspects, list):
        raise Malformed(f"{name} has to be a list")
    for aspect in aspects:
        if (
            not isinstance(aspect, list)
            or len(aspect) != 3
            or not all(isinstance(one, str) for one in aspect)
        ):
            raise Malformed(f"{name} has to hold [property, aspect, value]")
    return [(name, aspect, value) for name, aspect, value in aspects]


def _references(texts: Iterable[str]) -> list[str]:
    """Return references without their coercion: a vector may write either."""
    found = ((text, parse_reference(text)) for text in texts)
    return [reference.target if reference else text for text, reference in found]


def _reprint(text: str) -> str:
    """Return a printed constraint with its one ambiguity settled: TRUE is `()`, and `(&)` is the same."""
    return text.replace("(&)", "()")


def _plain_exponent(line: str) -> str:
    """Return a flat line whose number, if it is one, has the exponent as we write it (`1e16`, not `1e+16`)."""
    return re.sub(r"(?<==)(-?[0-9.]+e)\+([0-9]+)$", r"\1\2", line)


def _tree(ast: Any) -> Expression:
    """Return the tree that a vector's `ast` describes."""
    if not isinstance(ast, dict):
        raise Malformed("ast has to be an object")
    kind = ast.get("op")
    parts = next((value for value in ast.values() if isinstance(value, list)), [])
    if kind == "const":
        return TRUE if ast.get("value") else FALSE
    if kind in ("&", "and"):
        return And(tuple(map(_tree, parts))) if parts else Const(True)
    if kind in ("|", "or"):
        return Or(tuple(map(_tree, parts))) if parts else Const(False)
    if kind in ("!", "not"):
        inner = next((value for value in ast.values() if isinstance(value, dict)), None)
        return Not(_tree(inner if inner is not None else parts[0] if parts else None))
    reference = parse_reference(ast["ref"]) if isinstance(ast.get("ref"), str) else None
    if reference is None:
        raise Malformed("ast has no ref")
    if kind == "present":
        return Present(reference)
    if kind in ("=", "<", "<=", ">", ">=") and isinstance(ast.get("value"), str):
        return Comparison(reference, kind, ast["value"])
    raise Malformed(f"ast has an unknown op {kind!r}")


def _form_content(form: Form) -> Any:
    if isinstance(form.content, tuple):
        return tuple(_form_content(item) for item in form.content)
    return float(form.content) if form.kind == "number" else form.content


def _equals_json(value: Any, expected: Any) -> bool:
    """Tell whether a typed value is what a vector writes for it in JSON."""
    match value:
        case bool():
            return value is expected
        case float():
            try:
                return not isinstance(expected, bool) and value == float(expected)
            except (TypeError, ValueError):
                return False
        case tuple():
            return (
                isinstance(expected, list)
                and len(value) == len(expected)
                and all(map(_equals_json, value, expected))
            )
        case Version():
            return value.text == expected or value == read_version(str(expected))
        case Instant():
            return value == read_instant(str(expected))
        case Decimal():
            return value == read_decimal(str(expected))
        case _:
            return bool(value == expected)


def _rules(vector: Vector) -> list[Rule]:
    try:
        return rules_for(vector)
    except Exception:  # a vector that no rule can read is explained by none
        return []


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    return float(text) if math.isfinite(float(text)) else _refuse(text)


def _text_or_none(value: object) -> str | None:
    return None if value is None else str(value)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the file that the arguments name and print the outcome."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.vectors", description="Run vectors of the language."
    )
    parser.add_argument("file", help="one JSON object a line")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(argv)
    try:
        with open(options.file, "rb") as file:
            outcome = run(file)
    except OSError as error:
        print(f"cannot read {options.file}: {error.strerror}", file=sys.stderr)
        return 2
    if options.json:
        differences = [
            {"id": one.id, "kind": one.kind, "expected": one.expected, "actual": one.actual}
            for one in outcome["differences"]
        ]
        print(json.dumps({**outcome, "differences": differences}))
    else:
        print(_summary(outcome))
    return 1 if outcome["failed"] else 0


def _summary(outcome: dict[str, Any]) -> str:
    lines = []
    for one in outcome["differences"]:
        why = f"deviation ({', '.join(one.rules)})" if one.rules else "FAILED"
        lines.append(
            f"{one.id} {one.kind}: {why}\n    expected {one.expected!r}\n    actual   {one.actual!r}"
        )
    counts = "{total} vectors: {passed} passed, {deviations} deviations, {failed} failed".format(**outcome)
    return "\n".join([*lines, counts])


if __name__ == "__main__":
    raise SystemExit(main())
