"""The syntax tree of a constraint, and its canonical text.

Trees come from `parser`, where depth is capped at `limits.MAX_DEPTH`, so the recursion here is bounded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

Coercion: TypeAlias = Literal["d", "v", "t"]
"""The type that a reference asks for: decimal, version, date and time."""

Operator: TypeAlias = Literal["=", "<", "<=", ">", ">="]


class Reference(msgspec.Struct, frozen=True):
    """What a term refers to: `name`, `name[aspect]`, either with `$` and a coercion."""

    name: str
    aspect: str | None = None
    coercion: Coercion | None = None

    @property
    def target(self) -> str:
        """The property or aspect, without the coercion."""
        return self.name if self.aspect is None else f"{self.name}[{self.aspect}]"

    def __str__(self) -> str:
        return self.target if self.coercion is None else f"{self.target}${self.coercion}"


class Const(msgspec.Struct, frozen=True):
    """TRUE, `()`, or FALSE, `(|)`."""

    value: bool


class Present(msgspec.Struct, frozen=True):
    """The property or aspect is there: `(name=*)`."""

    reference: Reference


class Comparison(msgspec.Struct, frozen=True):
    """The property compares so with the operand: `(name>=8)`."""

    reference: Reference
    operator: Operator
    operand: str


class And(msgspec.Struct, frozen=True):
    """All of one or more."""

    items: tuple[Expression, ...]


class Or(msgspec.Struct, frozen=True):
    """Any of one or more."""

    items: tuple[Expression, ...]


class Not(msgspec.Struct, frozen=True):
    """The opposite."""

    item: Expression


Expression: TypeAlias = Const | Present | Comparison | And | Or | Not

TRUE = Const(True)
FALSE = Const(False)


def to_text(expression: Expression) -> str:
    """Return the canonical text: no blanks but those inside names and operands."""
    match expression:
        case Const(value=value):
            return "()" if value else "(|)"
        case Present(reference=reference):
            return f"({reference}=*)"
        case Comparison(reference=reference, operator=operator, operand=operand):
            return f"({reference}{operator}{operand})"
        case And(items=items):
            return f"(&{''.join(map(to_text, items))})"
        case Or(items=items):
            return f"(|{''.join(map(to_text, items))})"
        case Not(item=item):
            return f"(!{to_text(item)})"


def references(expression: Expression) -> Iterator[Reference]:
    """Yield the reference of every term, in the order of the text."""
    match expression:
        case Present(reference=reference) | Comparison(reference=reference):
            yield reference
        case And(items=items) | Or(items=items):
            for item in items:
                yield from references(item)
        case Not(item=item):
            yield from references(item)
        case Const():
            return


def conjuncts(expression: Expression) -> Iterator[Expression]:
    """Yield the expressions that all have to hold: what stands under the AND at the top, and ANDs below it."""
    if isinstance(expression, And):
        for item in expression.items:
            yield from conjuncts(item)
    else:
        yield expression
