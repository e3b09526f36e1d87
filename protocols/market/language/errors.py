"""What is wrong with a text of the property language.

    LanguageError (a ValueError)
    ├── PropertyError    properties that are not JSON, or are beyond the limits
    └── ConstraintError  a constraint that cannot be read; carries the position

All are faults of whoever wrote the text: REST answers 400, a record from a peer is refused.
"""

from __future__ import annotations


class LanguageError(ValueError):
    """A text that is not in the property language."""


class PropertyError(LanguageError):
    """Properties that are not JSON, are not an object where one is needed, or are beyond the limits."""


class ConstraintError(LanguageError):
    """A constraint that cannot be read."""

    def __init__(self, message: str, position: int) -> None:
        super().__init__(f"constraint, at character {position}: {message}")
        self.position = position
        """Characters before the place where reading stopped; 0 is the first."""
