"""Two indexes over subscriptions: by what their properties are, and by what their constraints ask.

`PropertyIndex` answers which rows have properties that satisfy a constraint, `ConstraintIndex` which rows have a
constraint that given properties satisfy. A row is a number that the caller chose for a subscription. Both are exact,
not approximate: the conjuncts that have to hold are looked up where that gives exactly the rows where they hold, and
what cannot be looked up is evaluated for the rows that are left. Called by `matcher` alone.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from math import isnan
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from protocols.market.language.evaluate import conjunction
from protocols.market.language.expression import Comparison, Const, Present
from protocols.market.language.property_set import VALUELESS
from protocols.market.language.values import read_boolean, read_list, read_number

if TYPE_CHECKING:
    from collections.abc import Iterable

    from protocols.market.language import Constraint, PropertySet
    from protocols.market.language.evaluate import Compiled, Test, Values
    from protocols.market.language.expression import Expression, Operator

Row: TypeAlias = int
_Label: TypeAlias = tuple["Expression", ...]

MAX_COLUMNS = 256
"""Names that a PropertyIndex keeps looked up at a time; beyond, the one made first is dropped and made again."""

_SCAN_RATIO = 4
"""Evaluating a term for one row costs about as much as walking this many rows of a sorted run."""


class SortedRows:
    """Rows in the order of a number that each goes with."""

    __slots__ = ("_numbers", "_rows")

    def __init__(self, pairs: Iterable[tuple[float, Row]] = ()) -> None:
        ordered = sorted(pairs)
        self._numbers = [number for number, _ in ordered]
        self._rows = [row for _, row in ordered]

    def add(self, number: float, row: Row) -> None:
        """Put a row in its place."""
        at = self._place(number, row)
        self._numbers.insert(at, number)
        self._rows.insert(at, row)

    def remove(self, number: float, row: Row) -> None:
        """Take out a row that was added with this number."""
        at = self._place(number, row)
        del self._numbers[at]
        del self._rows[at]

    def span(self, symbol: Operator, operand: float) -> tuple[int, int]:
        """Return the start and stop of the rows whose number compares so with the operand."""
        numbers = self._numbers
        if symbol == "=":
            return bisect_left(numbers, operand), bisect_right(numbers, operand)
        if symbol in ("<", "<="):
            return 0, (bisect_left if symbol == "<" else bisect_right)(numbers, operand)
        return (bisect_right if symbol == ">" else bisect_left)(numbers, operand), len(numbers)

    def rows(self, start: int = 0, stop: int | None = None) -> list[Row]:
        """Return the rows from start to stop, all by default."""
        return self._rows[start:stop]

    def __len__(self) -> int:
        return len(self._rows)

    def _place(self, number: float, row: Row) -> int:
        low, high = bisect_left(self._numbers, number), bisect_right(self._numbers, number)
        return bisect_left(self._rows, row, low, high)


class _Column:
    """The rows that have one property, by its value."""

    __slots__ = ("booleans", "members", "numbers", "others", "present", "texts")

    def __init__(self, cells: list[tuple[Row, Any]]) -> None:
        self.present: set[Row] = set()
        self.texts: dict[str, set[Row]] = {}
        self.members: dict[str, set[Row]] = {}
        """By item, the rows whose value is a list of strings that has the item."""
        self.booleans: dict[bool, set[Row]] = {False: set(), True: set()}
        self.others: dict[Row, Any] = {}
        """Whatever the above do not hold; evaluated one by one."""
        self.numbers = SortedRows((value, row) for row, value in cells if type(value) is float)
        for row, value in cells:
            if type(value) is float:
                self.present.add(row)
            else:
                self.add(row, value)

    def add(self, row: Row, value: Any) -> None:
        self.present.add(row)
        kind = type(value)
        if kind is str:
            self.texts.setdefault(value, set()).add(row)
        elif kind is float:
            self.numbers.add(value, row)
        elif kind is bool:
            self.booleans[value].add(row)
        elif kind is tuple and all(type(item) is str for item in value):
            for item in value:
                self.members.setdefault(item, set()).add(row)
        elif value is not VALUELESS:
            self.others[row] = value

    def remove(self, row: Row, value: Any) -> None:
        self.present.remove(row)
        kind = type(value)
        if kind is str:
            _discard(self.texts, value, row)
        elif kind is float:
            self.numbers.remove(value, row)
        elif kind is bool:
            self.booleans[value].remove(row)
        elif kind is tuple and all(type(item) is str for item in value):
            for item in set(value):
                _discard(self.members, item, row)
        else:
            self.others.pop(row, None)

    def equal(self, term: Comparison, test: Test) -> set[Row]:
        """Return the rows where an equality without a wildcard or list operand holds; not to be changed."""
        operand = term.operand
        found = [self.texts.get(operand), self.members.get(operand)]
        number = read_number(operand)
        if number is not None and len(self.numbers):
            found.append(set(self.numbers.rows(*self.numbers.span("=", number))))
        truth = read_boolean(operand)
        if truth is not None:
            found.append(self.booleans[truth])
        name = term.reference.name
        found.append({row for row, value in self.others.items() if test({name: value})})
        filled = [rows for rows in found if rows]
        return filled[0] if len(filled) == 1 else set().union(*filled)

    def ordered(self, term: Comparison, test: Test) -> _Run:
        """Return the rows where an order comparison holds."""
        name = term.reference.name
        rows = {row for row, value in self.others.items() if test({name: value})}
        for text, having in self.texts.items():
            if test({name: text}):
                rows |= having
        number = read_number(term.operand)
        if number is None or isnan(number):
            return _Run(self.numbers, (0, 0), rows)
        return _Run(self.numbers, self.numbers.span(term.operator, number), rows)


class _Run:
    """The rows where an order comparison holds: a span of those with a number, and others."""

    __slots__ = ("_more", "_numbers", "_start", "_stop")

    def __init__(self, numbers: SortedRows, span: tuple[int, int], more: set[Row]) -> None:
        self._numbers = numbers
        self._start, self._stop = span
        self._more = more

    def cost(self, total: int) -> int:
        """Return how many rows `narrowed` walks."""
        inside = self._stop - self._start
        return min(inside, total - inside) if len(self._numbers) == total else inside

    def narrowed(self, candidates: set[Row], total: int) -> set[Row]:
        """Return those of the candidates that are among the rows, of `total` that there are."""
        numbers = self._numbers
        if len(numbers) == total and 2 * (self._stop - self._start) > total:
            # All rows have a number and few of them are outside: taking those away is less work.
            return candidates.difference(numbers.rows(0, self._start), numbers.rows(self._stop))
        return candidates.intersection(numbers.rows(self._start, self._stop)) | (candidates & self._more)


class PropertyIndex:
    """Rows by their properties.

    A column is made when a constraint first asks for its name, and only if some row has the property, so the names
    that strangers make up cost nothing.
    """

    def __init__(self) -> None:
        self._sets: dict[Row, PropertySet] = {}
        self._carriers: dict[Any, int] = {}
        """How many rows have a property of this name."""
        self._columns: dict[str | tuple[str, str], _Column] = {}

    def add(self, row: Row, properties: PropertySet) -> None:
        """Index a row that is not indexed yet."""
        self._sets[row] = properties
        for name, value in properties.values.items():
            self._carriers[name] = self._carriers.get(name, 0) + 1
            if name in self._columns:
                self._columns[name].add(row, value)

    def remove(self, row: Row) -> None:
        """Forget a row that is indexed."""
        for name, value in self._sets.pop(row).values.items():
            self._carriers[name] -= 1
            if not self._carriers[name]:
                del self._carriers[name]
                self._columns.pop(name, None)
            elif name in self._columns:
                self._columns[name].remove(row, value)

    def satisfying(self, constraint: Constraint) -> set[Row]:
        """Return the rows whose properties satisfy the constraint."""
        found: list[set[Row]] = []
        runs: list[tuple[Compiled, _Run]] = []
        rest: list[Compiled] = []
        for part in constraint.conjuncts:
            rows = self._look_up(part)
            if rows is None:
                rest.append(part)
            elif isinstance(rows, _Run):
                runs.append((part, rows))
            elif not rows:
                return set()
            elif len(rows) < len(self._sets):
                found.append(rows)
        candidates = set.intersection(*sorted(found, key=len)) if found else set(self._sets)
        for part, run in runs:
            if run.cost(len(self._sets)) > _SCAN_RATIO * len(candidates):
                rest.append(part)
            else:
                candidates = run.narrowed(candidates, len(self._sets))
        if not rest:
            return candidates
        test, sets = conjunction(rest), self._sets
        return {row for row in candidates if test(sets[row].values)}

    def _look_up(self, part: Compiled) -> set[Row] | _Run | None:
        """Return exactly the rows where `part` holds, or None where only evaluating it can tell."""
        term = part.expression
        if isinstance(term, Const):
            return set(self._sets) if term.value else set()
        if not isinstance(term, (Present, Comparison)) or term.reference.aspect is not None:
            return None
        name = term.reference.name
        if name not in self._carriers:
            return set()
        if isinstance(term, Present):
            return self._column(name).present
        if term.reference.coercion is not None:
            return None
        if term.operator == "=":
            return self._column(name).equal(term, part.test) if _is_plain(term.operand) else None
        return self._column(name).ordered(term, part.test)

    def _column(self, name: str) -> _Column:
        column = self._columns.get(name)
        if column is None:
            if len(self._columns) >= MAX_COLUMNS:
                del self._columns[next(iter(self._columns))]
            cells = [(row, one.values[name]) for row, one in self._sets.items() if name in one.values]
            column = self._columns[name] = _Column(cells)
        return column


class _Group:
    """The rows whose constraints are the same but for their thresholds."""

    __slots__ = ("gate", "label", "rows", "test")

    def __init__(self, label: _Label, test: Test, gate: tuple[str, str] | None) -> None:
        self.label: Final = label
        self.test: Final = test
        self.gate: Final = gate
        """The (name, operand) of an equality that the group's constraint asks for, if it does."""
        self.rows: set[Row] = set()


class ConstraintIndex:
    """Rows by their constraints.

    Offers of one market differ in little but a number (`expiration > when I was made`), so thresholds are taken out
    of each constraint and kept sorted, and what remains is evaluated once for all rows that share it. Groups are
    reached by way of one of their equalities, so that most of those that cannot hold are never looked at.
    """

    def __init__(self) -> None:
        self._constraints: dict[Row, Constraint] = {}
        self._group_of: dict[Row, _Group] = {}
        self._groups: dict[_Label, _Group] = {}
        self._gated: dict[str, dict[str, set[_Group]]] = {}
        """By name and operand of a gate, the groups behind it."""
        self._ungated: set[_Group] = set()
        self._thresholds: dict[tuple[str, Operator], SortedRows] = {}

    def add(self, row: Row, constraint: Constraint) -> None:
        """Index a row that is not indexed yet."""
        thresholds, rest = _split(constraint)
        for term, number in thresholds:
            key = term.reference.name, term.operator
            self._thresholds.setdefault(key, SortedRows()).add(number, row)
        # Not the text: two different trees may print alike where a name starts with ")".
        label = tuple(part.expression for part in rest)
        group = self._groups.get(label)
        if group is None:
            test = conjunction(rest) if rest else _always
            group = self._groups[label] = _Group(label, test, self._gate_for(rest))
            if group.gate is None:
                self._ungated.add(group)
            else:
                name, operand = group.gate
                self._gated.setdefault(name, {}).setdefault(operand, set()).add(group)
        group.rows.add(row)
        self._group_of[row] = group
        self._constraints[row] = constraint

    def remove(self, row: Row) -> None:
        """Forget a row that is indexed."""
        for term, number in _split(self._constraints.pop(row))[0]:
            key = term.reference.name, term.operator
            self._thresholds[key].remove(number, row)
            if not self._thresholds[key]:
                del self._thresholds[key]
        group = self._group_of.pop(row)
        group.rows.remove(row)
        if group.rows:
            return
        del self._groups[group.label]
        if group.gate is None:
            self._ungated.remove(group)
            return
        name, operand = group.gate
        _discard(self._gated[name], operand, group)
        if not self._gated[name]:
            del self._gated[name]

    def satisfied_by(self, properties: PropertySet, candidates: set[Row]) -> set[Row]:
        """Return those of the candidates whose constraint the properties satisfy."""
        values = properties.values
        if len(candidates) <= len(self._ungated) + len(self._gated):
            return {row for row in candidates if self._constraints[row].test(values)}
        satisfied: set[Row] = set()
        for group in self._reachable(values):
            if group.test(values):
                satisfied |= group.rows & candidates
        for (name, symbol), thresholds in self._thresholds.items():
            if not satisfied:
                break
            value = values.get(name)
            if type(value) is float:
                satisfied.difference_update(thresholds.rows(*thresholds.span(_FAILING[symbol], value)))
            elif value is None or value is VALUELESS:
                satisfied.difference_update(thresholds.rows())
            else:
                asking = satisfied.intersection(thresholds.rows())
                satisfied -= {row for row in asking if not self._constraints[row].test(values)}
        return satisfied

    def _reachable(self, values: Values) -> set[_Group]:
        """Return the groups that may hold: those without a gate, and those whose gate the values may open."""
        groups = set(self._ungated)
        for name, by_operand in self._gated.items():
            value = values.get(name)
            if type(value) is str:
                groups |= by_operand.get(value, _NO_GROUPS)
            elif value is not None:
                groups = groups.union(*by_operand.values())
        return groups

    def _gate_for(self, rest: list[Compiled]) -> tuple[str, str] | None:
        gates = [
            (part.expression.reference.name, part.expression.operand)
            for part in rest
            if isinstance(part.expression, Comparison) and _is_gate(part.expression)
        ]
        # The gate with the fewest groups behind it tells this one best from the others.
        return min(
            gates, key=lambda gate: len(self._gated.get(gate[0], {}).get(gate[1], _NO_GROUPS)), default=None
        )


_NO_GROUPS: Final[frozenset[_Group]] = frozenset()

_FAILING: Final[dict[Operator, Operator]] = {">": ">=", ">=": ">", "<": "<=", "<=": "<"}
"""By a threshold's operator, how the thresholds that a value does not meet compare with the value."""


def _split(constraint: Constraint) -> tuple[list[tuple[Comparison, float]], list[Compiled]]:
    """Return a constraint's thresholds (order comparisons with a number that have to hold) and all else."""
    thresholds: list[tuple[Comparison, float]] = []
    rest: list[Compiled] = []
    for part in constraint.conjuncts:
        term = part.expression
        number = _threshold(term)
        if number is not None and isinstance(term, Comparison):
            thresholds.append((term, number))
        else:
            rest.append(part)
    return thresholds, rest


def _threshold(term: Expression) -> float | None:
    if not isinstance(term, Comparison) or term.operator == "=":
        return None
    if term.reference.aspect is not None or term.reference.coercion is not None:
        return None
    number = read_number(term.operand)
    return None if number is None or isnan(number) else number


def _is_gate(term: Comparison) -> bool:
    reference = term.reference
    is_bare = reference.aspect is None and reference.coercion is None
    return is_bare and term.operator == "=" and _is_plain(term.operand)


def _is_plain(operand: str) -> bool:
    """Tell whether an equality's operand is one value, and no pattern or list."""
    return "*" not in operand and read_list(operand) is None


def _always(_: Values) -> bool:
    return True


def _discard(sets: dict[str, set[Any]], key: str, item: Any) -> None:
    having = sets[key]
    having.discard(item)
    if not having:
        del sets[key]
