"""A constraint, parsed and compiled once, shared by all who carry the same text.

Thousands of offers carry the same few constraints, so `Constraint.parse` interns: as long as one is in use, the same
text gives the same object, and the matcher evaluates it once for all of them.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

from protocols.market.language.evaluate import Compiled, Resolution, compile_expression, resolve
from protocols.market.language.expression import And, Expression, references, to_text
from protocols.market.language.parser import parse

if TYPE_CHECKING:
    from protocols.market.language.property_set import PropertySet


class Constraint:
    """An immutable constraint; equal to another that has the same tree."""

    __slots__ = ("__weakref__", "_digest", "compiled", "expression", "test", "text")

    def __init__(self, expression: Expression) -> None:
        """Compile a tree, such as a resolution's `reduced`; use `parse` for text from outside."""
        self.expression: Final = expression
        self.text: Final = to_text(expression)
        """The canonical text."""
        self.compiled: Final = compile_expression(expression)
        self.test: Final = self.compiled.test
        """Takes `PropertySet.values`; True, False, or None for undefined. The fast path: no reasons are kept."""
        self._digest: bytes | None = None

    @classmethod
    def parse(cls, text: str, *, strict: bool = False) -> Constraint:
        """Return the constraint that `text` spells.

        Args:
            text: as `parser.parse` takes it.
            strict: refuse text behind the filter instead of ignoring it.

        Raises:
            ConstraintError: not a constraint, or beyond the limits; says where.
        """
        known = None if strict else _by_spelling.get(text)
        if known is None:
            made = cls(parse(text, strict=strict))
            known = _by_tree.setdefault(made.expression, made)
            _by_spelling[text] = known
        return known

    def evaluate(self, properties: PropertySet) -> bool | None:
        """Return whether `properties` satisfy the constraint, None for undefined."""
        return self.test(properties.values)

    def resolve(self, properties: PropertySet) -> Resolution:
        """Return the verdict, what was unresolved, and what remains of the expression."""
        return resolve(self.compiled, properties)

    @property
    def conjuncts(self) -> tuple[Compiled, ...]:
        """The parts that all have to hold: those of the AND at the top and of ANDs directly below it."""
        return tuple(_conjuncts(self.compiled))

    @property
    def references(self) -> tuple[str, ...]:
        """What the terms refer to, as `name` or `name[aspect]`: sorted, each once."""
        return tuple(sorted({reference.target for reference in references(self.expression)}))

    @property
    def digest(self) -> bytes:
        """The SHA-256 of `text`: 32 bytes that name the content."""
        if self._digest is None:
            self._digest = hashlib.sha256(self.text.encode()).digest()
        return self._digest

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Constraint) and self.expression == other.expression

    def __hash__(self) -> int:
        return hash(self.expression)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Constraint({self.text!r})"


_by_spelling: WeakValueDictionary[str, Constraint] = WeakValueDictionary()
_by_tree: WeakValueDictionary[Expression, Constraint] = WeakValueDictionary()
# Not by canonical text: `(&( )(a=1))` asks for a property called ")(a" and prints like `(&()(a=1))`, which asks for a.


def _conjuncts(compiled: Compiled) -> list[Compiled]:
    if isinstance(compiled.expression, And):
        return [inner for part in compiled.parts for inner in _conjuncts(part)]
    return [compiled]
