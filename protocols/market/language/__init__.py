"""The market's property and constraint language. Pure; `docs/language.md` is its one-page description.

`PropertySet` and `Constraint` are the parsed forms, both interned; `match` is what a demand and an offer say of each
other. `flatten`, `expand`, `merge` and `patch` work on property documents as JSON. The matcher, negotiation, the
scan API and payment's demand decorations all use this package, and nothing else reads the language.
"""

from __future__ import annotations

from protocols.market.language.constraint import Constraint
from protocols.market.language.errors import ConstraintError, LanguageError, PropertyError
from protocols.market.language.evaluate import MatchResult, Resolution, Verdict, match
from protocols.market.language.expression import Expression, to_text
from protocols.market.language.limits import MAX_DEPTH, MAX_PROPERTIES, MAX_TERMS, MAX_TEXT_BYTES
from protocols.market.language.parser import parse, parse_reference
from protocols.market.language.properties import canonical_text, expand, flat_lines, flatten, merge, patch
from protocols.market.language.property_set import VALUELESS, PropertySet

__all__ = [
    "MAX_DEPTH",
    "MAX_PROPERTIES",
    "MAX_TERMS",
    "MAX_TEXT_BYTES",
    "VALUELESS",
    "Constraint",
    "ConstraintError",
    "Expression",
    "LanguageError",
    "MatchResult",
    "PropertyError",
    "PropertySet",
    "Resolution",
    "Verdict",
    "canonical_text",
    "expand",
    "flat_lines",
    "flatten",
    "match",
    "merge",
    "parse",
    "parse_reference",
    "patch",
    "to_text",
]
