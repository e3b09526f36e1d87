"""Constraint text to syntax tree.

The grammar is the original daemon's, choice by choice, because scripts depend on what it lets through:

    filter  := "()" | blanks "(" blanks content blanks ")" blanks
    content := "&" blanks filter*  |  "|" blanks filter*  |  "!" blanks filter  |  present  |  simple
    present := ref "=*"
    simple  := ref op value          op is one of  =  <=  <  >=  >
    ref     := anything up to the first of  = < > ~          value := anything up to the next )

Choices are ordered and final: once `&` and its filters have matched, only `)` may follow. The one exception is `!`
before something that is no filter, which is then read as the start of a name, so that `(!x=5)` is about a property
called `!x`. Running out of text is an error wherever it happens. What follows a complete filter is ignored, unless
the caller is strict.

`parse` keeps its own stack instead of recursing and takes time linear in the text for each level of nesting. For any
string it returns a tree or raises ConstraintError. Called by `constraint`.
"""

from __future__ import annotations

import re
from typing import Literal, TypeAlias, Union, cast

import msgspec

from protocols.market.language.errors import ConstraintError
from protocols.market.language.expression import (
    FALSE,
    TRUE,
    And,
    Coercion,
    Comparison,
    Expression,
    Not,
    Operator,
    Or,
    Present,
    Reference,
)
from protocols.market.language.limits import MAX_DEPTH, MAX_TERMS, MAX_TEXT_BYTES, exceeds_text_limit

_BLANKS = re.compile(r"[ \t\r\n]*+")
_REFERENCE_END = re.compile(r"[=<>~]")
_REFERENCE = re.compile(r"([^\[\]$]*+)(?:\[([^\[\]$]*+)\])?(?:\$([dvt]))?")
_OPERATOR = re.compile(r"<=|>=|=|<|>")


class _Leaf(msgspec.Struct, frozen=True):
    """A term whose reference is read only once the whole text has parsed, as it may yet turn out not to be one."""

    reference: str
    operator: Operator | None
    operand: str
    position: int


_Raw: TypeAlias = Union[Expression, _Leaf, "_Composite"]


class _Composite(msgspec.Struct):
    """A filter that was opened and is not closed yet; afterwards, a node of the raw tree."""

    kind: Literal["&", "|", "!"]
    position: int
    resume: int
    """Where the text goes on behind the last inner filter."""
    items: list[_Raw] = []


class _NoFilter(Exception):
    """What was tried at this position is not a filter; another choice may be."""


def parse(text: str, *, strict: bool = False) -> Expression:
    """Return the tree of a constraint.

    Args:
        text: at most `limits.MAX_TEXT_BYTES`, `MAX_DEPTH` filters deep, `MAX_TERMS` terms.
        strict: refuse text behind the filter instead of ignoring it.

    Raises:
        ConstraintError: not a constraint, or beyond the limits; says where.
    """
    if exceeds_text_limit(text):
        raise ConstraintError(f"longer than {MAX_TEXT_BYTES} bytes", MAX_TEXT_BYTES)
    if not text:
        raise ConstraintError("the constraint is empty; to accept anything, write ()", 0)
    if not text.isascii():
        _refuse_surrogates(text)
    reader = _Reader(text)
    raw = reader.read()
    if strict and text[reader.end :].strip(" \t\r\n"):
        raise ConstraintError(
            "text after the end of the constraint; to require several filters, write (&...)", reader.end
        )
    return _built(raw)


def parse_reference(text: str) -> Reference | None:
    """Return what `name`, `name[aspect]`, `name$T` or `name[aspect]$T` refers to, or None for any other form."""
    found = _REFERENCE.fullmatch(text)
    if not found:
        return None
    name, aspect, coercion = found.groups()
    return Reference(name, aspect, cast("Coercion | None", coercion))


class _Reader:
    """Reads one text, once."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.end = 0
        self._terms = 0
        self._furthest = 0
        self._expected = "a filter, which starts with ("

    def read(self) -> _Raw:
        """Return the raw tree of the filter at the start of the text; `end` is then where it ends."""
        stack: list[_Composite] = []
        at = 0
        while True:
            try:
                opened = self._open(at)
                if isinstance(opened, _Composite):
                    if len(stack) >= MAX_DEPTH:
                        raise ConstraintError(f"filters nested deeper than {MAX_DEPTH} levels", at)
                    stack.append(opened)
                    at = opened.resume
                    continue
                done, at = opened
            except _NoFilter:
                done, at = self._fall_back(stack)
            finished = self._deliver(stack, done, at)
            if finished is not None:
                return finished
            at = self.end

    def _open(self, at: int) -> _Composite | tuple[_Raw, int]:
        """Start the filter at `at`: a composite to be filled, or a whole constant or term and where it ends."""
        if self.text.startswith("()", at):
            self._count_term(at)
            return TRUE, at + 2
        at = self._skip(at)
        if self.text[at] != "(":
            raise self._no_filter(at, "a filter, which starts with (")
        at = self._skip(at + 1)
        if self.text[at] in "&|!":
            kind = cast("Literal['&', '|', '!']", self.text[at])
            return _Composite(kind, at, self._skip(at + 1))
        return self._leaf(at)

    def _fall_back(self, stack: list[_Composite]) -> tuple[_Raw, int]:
        """Find what else the open filters can be, given that no filter starts where one was tried."""
        while stack:
            top = stack.pop()
            try:
                if top.kind == "!":
                    return self._leaf(top.position)
                return top, self._close(top.resume)
            except _NoFilter:
                continue
        raise ConstraintError(f"expected {self._expected}", self._furthest)

    def _deliver(self, stack: list[_Composite], done: _Raw, at: int) -> _Raw | None:
        """Put a finished filter into the one that holds it; return it if none does, else set `end` to go on from."""
        while True:
            self.end = at
            if isinstance(done, _Composite) and not done.items:
                self._count_term(at)
            if not stack:
                return done
            top = stack[-1]
            top.items.append(done)
            top.resume = at
            if top.kind != "!":
                return None
            try:
                at = self._close(at)
                done = stack.pop()
            except _NoFilter:
                stack.pop()
                done, at = self._fall_back(stack)

    def _leaf(self, start: int) -> tuple[_Raw, int]:
        self._count_term(start)
        delimiter = _REFERENCE_END.search(self.text, start)
        if not delimiter:
            raise self._ended("a comparison: = < <= > >=")
        at = delimiter.start()
        reference = self.text[start:at]
        if self.text.startswith("=*", at):
            return _Leaf(reference, None, "", start), self._close(at + 2)
        if at + 1 == len(self.text) and self.text[at] != "~":
            raise self._ended("a value and )")
        operator = _OPERATOR.match(self.text, at)
        if not operator:
            raise self._no_filter(at, "a comparison: = < <= > >= (there is no ~)")
        if operator.end() == len(self.text):
            raise self._ended("a value and )")
        close = self.text.find(")", operator.end())
        if close < 0:
            raise self._no_filter(len(self.text), ") after the value")
        symbol = cast("Operator", operator.group())
        operand = self.text[operator.end() : close]
        if operand.startswith("["):
            self._count_term(start, operand.count(","))
        return _Leaf(reference, symbol, operand, start), self._close(close)

    def _close(self, at: int) -> int:
        at = self._skip(at)
        if self.text[at] != ")":
            raise self._no_filter(at, ")")
        found = _BLANKS.match(self.text, at + 1)
        return found.end() if found else at + 1

    def _skip(self, at: int) -> int:
        """Return the position of the first character at or behind `at` that is no blank; there has to be one."""
        found = _BLANKS.match(self.text, at)
        at = found.end() if found else at
        if at >= len(self.text):
            raise self._ended("( or )")
        return at

    def _count_term(self, at: int, count: int = 1) -> None:
        self._terms += count
        if self._terms > MAX_TERMS:
            raise ConstraintError(f"more than {MAX_TERMS} terms and list items", at)

    def _no_filter(self, at: int, expected: str) -> _NoFilter:
        if at >= self._furthest:
            self._furthest, self._expected = at, expected
        return _NoFilter()

    def _ended(self, expected: str) -> ConstraintError:
        return ConstraintError(f"the text ends where {expected} was expected", len(self.text))


def _built(raw: _Raw) -> Expression:
    if isinstance(raw, _Leaf):
        reference = parse_reference(raw.reference)
        if reference is None:
            raise ConstraintError(
                f"{raw.reference[:64]!r} is not name, name[aspect], or either with $d, $v or $t", raw.position
            )
        return Comparison(reference, raw.operator, raw.operand) if raw.operator else Present(reference)
    if not isinstance(raw, _Composite):
        return raw
    if raw.kind == "!":
        return Not(_built(raw.items[0]))
    if not raw.items:
        return TRUE if raw.kind == "&" else FALSE
    items = tuple(_built(item) for item in raw.items)
    return And(items) if raw.kind == "&" else Or(items)


def _refuse_surrogates(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConstraintError("half of a surrogate pair, which no text may hold", error.start) from None
