"""Evaluating a constraint against properties, in three-valued logic.

`compile_expression` turns a tree into tests that look up one name each and compare with an operand that was read
beforehand, by the type of what they find. A test answers True, False or None (undefined); that is what the matcher
runs. `resolve` walks the same compiled tree and also tells which references were unresolved and what remains of the
expression; it is for diagnostics and negotiation, where a person or an agent reads the answer. `match` joins both
sides of a deal.

The rules are `docs/language.md`'s, which are the original daemon's: in particular an operand that cannot be read as
the property's type makes a comparison false, a property that cannot be read as the reference's type makes it
undefined, and an absent property makes a comparison undefined but a presence false.
"""

from __future__ import annotations

import enum
import operator
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from protocols.market.language.expression import (
    FALSE,
    TRUE,
    And,
    Comparison,
    Const,
    Expression,
    Not,
    Operator,
    Or,
    Present,
)
from protocols.market.language.property_set import VALUELESS, PropertySet, Valueless
from protocols.market.language.values import (
    Instant,
    Version,
    read_boolean,
    read_decimal,
    read_instant,
    read_list,
    read_number,
    read_version,
)
from protocols.market.language.wildcard import matches

if TYPE_CHECKING:
    from protocols.market.language.constraint import Constraint

Values: TypeAlias = Mapping[Any, Any]
"""What `PropertySet.values` is; untyped, because a test is chosen by the type that it finds."""

Test: TypeAlias = Callable[[Values], bool | None]


class Verdict(enum.Enum):
    """What a constraint says of properties, or two sides of each other."""

    MATCH = "match"
    MISMATCH = "mismatch"
    UNDEFINED = "undefined"


class Resolution(msgspec.Struct, frozen=True):
    """What one constraint says of one property set."""

    verdict: Verdict
    unresolved: tuple[str, ...]
    """References to what is absent, as `name` or `name[aspect]`, in the order met; with repeats."""
    reduced: Expression
    """What remains to be decided: resolved against a fuller set, it gives the final answer."""


class MatchResult(msgspec.Struct, frozen=True):
    """What a demand and an offer say of each other."""

    verdict: Verdict
    """UNDEFINED if either side is, else MATCH if both sides do, else MISMATCH."""
    demand_mismatch: tuple[str, ...]
    """What the offer's constraint misses in the demand's properties."""
    offer_mismatch: tuple[str, ...]
    """What the demand's constraint misses in the offer's properties."""


class Compiled(msgspec.Struct, frozen=True, eq=False):
    """An expression, its test, and the same of its parts."""

    expression: Expression
    test: Test
    parts: tuple[Compiled, ...] = ()


def match(
    demand_properties: PropertySet,
    demand_constraint: Constraint,
    offer_properties: PropertySet,
    offer_constraint: Constraint,
) -> MatchResult:
    """Return what a demand and an offer say of each other."""
    of_offer = demand_constraint.resolve(offer_properties)
    of_demand = offer_constraint.resolve(demand_properties)
    verdicts = {of_offer.verdict, of_demand.verdict}
    if Verdict.UNDEFINED in verdicts:
        verdict = Verdict.UNDEFINED
    else:
        verdict = Verdict.MISMATCH if Verdict.MISMATCH in verdicts else Verdict.MATCH
    return MatchResult(verdict, of_demand.unresolved, of_offer.unresolved)


def resolve(compiled: Compiled, properties: PropertySet) -> Resolution:
    """Return the verdict with its reasons."""
    unresolved, truth, reduced = _resolve(compiled, properties.values)
    if truth is None:
        return Resolution(Verdict.UNDEFINED, tuple(unresolved), reduced)
    return Resolution(Verdict.MATCH if truth else Verdict.MISMATCH, tuple(unresolved), reduced)


def compile_expression(expression: Expression) -> Compiled:
    """Return the compiled form of an expression."""
    match expression:
        case Const(value=value):
            return Compiled(expression, lambda _: value)
        case Present(reference=reference):
            key = reference.name if reference.aspect is None else (reference.name, reference.aspect)
            return Compiled(expression, lambda values: key in values)
        case Comparison():
            return Compiled(expression, _comparison(expression))
        case Not(item=item):
            part = compile_expression(item)
            return Compiled(expression, _negation(part.test), (part,))
        case And(items=items) | Or(items=items):
            parts = tuple(compile_expression(item) for item in items)
            join = _conjunction if isinstance(expression, And) else _disjunction
            return Compiled(expression, join([part.test for part in parts]), parts)


def conjunction(parts: list[Compiled]) -> Test:
    """Return the test that all `parts` hold."""
    return _conjunction([part.test for part in parts])


def _resolve(compiled: Compiled, values: Values) -> tuple[list[str], bool | None, Expression]:
    expression = compiled.expression
    match expression:
        case Const(value=value):
            return [], value, expression
        case Present(reference=reference):
            if compiled.test(values):
                return [], True, TRUE
            # The original leaves the expression as it was where an aspect's property is itself without a value.
            lacks_property = (
                reference.aspect is not None and values.get(reference.name, VALUELESS) is VALUELESS
            )
            return [reference.target], False, expression if lacks_property else FALSE
        case Comparison(reference=reference):
            truth = compiled.test(values)
            if truth is not None:
                return [], truth, TRUE if truth else FALSE
            # A value that is there, but is not of the type asked for, is not reported as missing.
            is_there = reference.aspect is None and values.get(reference.name, VALUELESS) is not VALUELESS
            return [] if is_there else [reference.target], None, expression
        case Not():
            unresolved, truth, reduced = _resolve(compiled.parts[0], values)
            if truth is None:
                return unresolved, None, Not(reduced)
            return [], not truth, FALSE if truth else TRUE
        case And():
            return _resolve_all(compiled.parts, values)
        case Or():
            return _resolve_any(compiled.parts, values)


def _resolve_all(parts: tuple[Compiled, ...], values: Values) -> tuple[list[str], bool | None, Expression]:
    unresolved: list[str] = []
    undefined: list[Expression] = []
    for part in parts:
        missing, truth, reduced = _resolve(part, values)
        if truth is False:
            return [], False, FALSE
        if truth is None:
            unresolved += missing
            undefined.append(reduced)
    if not undefined:
        return [], True, TRUE
    return unresolved, None, undefined[0] if len(undefined) == 1 else And(tuple(undefined))


def _resolve_any(parts: tuple[Compiled, ...], values: Values) -> tuple[list[str], bool | None, Expression]:
    unresolved: list[str] = []
    remaining: list[Expression] = []
    truth: bool | None = False
    for part in parts:
        missing, part_truth, reduced = _resolve(part, values)
        if part_truth:
            return [], True, TRUE
        unresolved += missing
        if not isinstance(reduced, Const):
            remaining.append(reduced)
        if part_truth is None:
            truth = None
    if not remaining:
        return unresolved, truth, FALSE
    return unresolved, truth, remaining[0] if len(remaining) == 1 else Or(tuple(remaining))


def _conjunction(tests: list[Test]) -> Test:
    if len(tests) == 1:
        return tests[0]

    def all_hold(values: Values) -> bool | None:
        result: bool | None = True
        for test in tests:
            truth = test(values)
            if truth is False:
                return False
            if truth is None:
                result = None
        return result

    return all_hold


def _disjunction(tests: list[Test]) -> Test:
    if len(tests) == 1:
        return tests[0]

    def any_holds(values: Values) -> bool | None:
        result: bool | None = False
        for test in tests:
            truth = test(values)
            if truth:
                return True
            if truth is None:
                result = None
        return result

    return any_holds


def _negation(test: Test) -> Test:
    def does_not_hold(values: Values) -> bool | None:
        truth = test(values)
        return None if truth is None else not truth

    return does_not_hold


def _comparison(term: Comparison) -> Test:
    reference = term.reference
    name = reference.name
    if reference.aspect is not None:
        # All operators are plain equality on an aspect, and its coercion is without effect.
        key, operand = (name, reference.aspect), term.operand

        def compare_aspect(values: Values) -> bool | None:
            text = values.get(key)
            return None if text is None else bool(text == operand)

        return compare_aspect
    by_type = _Predicates(term.operator, term.operand)
    if reference.coercion is None:

        def compare(values: Values) -> bool | None:
            value = values.get(name)
            return by_type[type(value)](value)

        return compare
    wanted, read = _COERCIONS[reference.coercion]

    def compare_coerced(values: Values) -> bool | None:
        value = values.get(name)
        if type(value) is str:
            value = read(value)
        return by_type[wanted](value) if type(value) is wanted else None

    return compare_coerced


_COERCIONS: Mapping[str, tuple[type, Callable[[str], object]]] = {
    "d": (Decimal, read_decimal),
    "v": (Version, read_version),
    "t": (Instant, read_instant),
}
_READERS: Mapping[type, Callable[[str], Any]] = {
    float: read_number,
    Decimal: read_decimal,
    Instant: read_instant,
    Version: read_version,
}
_COMPARE: Mapping[Operator, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
# The same with the sides exchanged, as methods of the operand: a bound method is the fastest test there is.
_EXCHANGED: Mapping[Operator, str] = {
    "=": "__eq__",
    "<": "__gt__",
    "<=": "__ge__",
    ">": "__lt__",
    ">=": "__le__",
}

_Predicate: TypeAlias = Callable[[Any], bool | None]


class _Predicates(dict[type, _Predicate]):
    """What one comparison says of a value, by the value's type; each made when a value of the type first turns up."""

    def __init__(self, symbol: Operator, operand: str) -> None:
        super().__init__()
        self._symbol = symbol
        self._operand = operand

    def __missing__(self, kind: type) -> _Predicate:
        predicate = self[kind] = self._made(kind)
        return predicate

    def _made(self, kind: type) -> _Predicate:
        if kind is type(None) or kind is Valueless:
            return _undefined
        if kind is str:
            return self._on_text()
        if kind is bool:
            wanted = read_boolean(self._operand) if self._symbol == "=" else None
            return _never if wanted is None else lambda value: value is wanted
        if kind is tuple:
            return self._on_list() if self._symbol == "=" else _never
        operand = _READERS[kind](self._operand)
        if operand is None:
            return _never
        if kind is Version:
            compare, precedence = _COMPARE[self._symbol], operand.precedence
            return lambda version: compare(version.precedence, precedence)
        predicate: _Predicate = getattr(operand, _EXCHANGED[self._symbol])
        return predicate

    def _on_text(self) -> _Predicate:
        pattern = self._operand
        if self._symbol == "=" and "*" in pattern:
            return lambda text: matches(pattern, text)
        # Python compares by code point, which orders as UTF-8 bytes do.
        predicate: _Predicate = getattr(pattern, _EXCHANGED[self._symbol])
        return predicate

    def _on_list(self) -> _Predicate:
        wanted = read_list(self._operand)
        if wanted is None:
            return lambda items: any(self[type(item)](item) for item in items)
        equal_to = [_Predicates("=", item) for item in wanted]

        def has_same_items(items: tuple[Any, ...]) -> bool:
            # Not as sets: each wanted item has to equal some item, whatever the others equal.
            return len(items) == len(equal_to) and all(
                any(equals[type(item)](item) for item in items) for equals in equal_to
            )

        return has_same_items


def _undefined(_: object) -> None:
    return None


def _never(_: object) -> bool:
    return False
