"""Finding differences: by splitting ranges as by comparing everything, at a cost that follows the difference."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.broadcast.ranges import (
    EVERYTHING,
    LEAF,
    MAX_KEY_CHARS,
    MAX_SEQ,
    SPLIT,
    Holding,
    KeyRange,
    differences,
)

_keys = st.text("ab\u00e9\uffff\U0001f600", min_size=1, max_size=4)  # few, so that both sides share some
_helds = st.dictionaries(_keys, st.integers(0, 3), max_size=200)


def _reconcile(ours: Holding, theirs: Holding) -> tuple[dict[str, int], list[str], int]:
    """Return what splitting finds wanted and offered, and how many fingerprints it took."""
    wanted: dict[str, int] = {}
    offered: list[str] = []
    waiting, compared = [EVERYTHING], 0
    while waiting:
        span = waiting.pop()
        compared += 1
        if ours.fingerprint(span) == theirs.fingerprint(span):
            continue
        if len(ours.keys(span)) > LEAF:
            waiting += ours.split(span)
            continue
        listed = {key: theirs.seq(key) for key in theirs.keys(span)}
        want, offer = differences(ours, span, listed)
        wanted |= {key: listed[key] for key in want}
        offered += offer
    return wanted, sorted(offered), compared


@given(_helds, _helds)
def test_both_sides_then_hold_the_newest_of_everything(ours: dict[str, int], theirs: dict[str, int]) -> None:
    wanted, offered, _ = _reconcile(Holding(ours), Holding(theirs))
    newest = {key: max(ours.get(key, -1), theirs.get(key, -1)) for key in ours | theirs}
    assert ours | wanted == newest
    assert theirs | {key: ours[key] for key in offered} == newest


@given(_helds, _keys, _keys)
def test_splitting_covers_each_key_once(held: dict[str, int], after: str, upto: str) -> None:
    holding, span = Holding(held), KeyRange(after, upto)
    inside = [key for key in sorted(held) if key in span]
    assert list(holding.keys(span)) == inside
    if len(inside) > LEAF:
        parts = holding.split(span)
        assert len(parts) == SPLIT
        assert [key for part in parts for key in holding.keys(part)] == inside
        assert (parts[0].after, parts[-1].upto) == (after, upto)
        assert all(a.upto == b.after for a, b in itertools.pairwise(parts))


def test_the_cost_follows_the_difference() -> None:
    held = {f"{i:05}": 1 for i in range(10_000)}
    ours = Holding(held)
    assert _reconcile(ours, Holding(held))[2] == 1
    assert _reconcile(ours, Holding(held | {"05000": 2}))[:2] == ({"05000": 2}, [])
    assert _reconcile(ours, Holding(held | {"05000": 2}))[2] <= 1 + 3 * SPLIT
    some = {f"{i:05}": 2 for i in range(0, 10_000, 1000)}
    assert _reconcile(ours, Holding(held | some))[2] <= 1 + 10 * 3 * SPLIT


@pytest.mark.parametrize("change", [{"a": 2}, {"c": 1}, {"ab": 1}])
def test_a_fingerprint_tells_any_change(change: dict[str, int]) -> None:
    held = {"a": 1, "b": 1}
    assert Holding(held).fingerprint(EVERYTHING) != Holding(held | change).fingerprint(EVERYTHING)


def test_a_fingerprint_is_of_the_content_and_part_of_the_protocol() -> None:
    expected = "3f6508b915a07aad5add6f05168f61cb"
    assert Holding({"b": 2, "a": 1}).fingerprint(EVERYTHING).hex() == expected
    assert Holding({"a": 1, "b": 2, "c": 3}).fingerprint(KeyRange("", "b")).hex() == expected


@pytest.mark.parametrize("held", [{"": 1}, {"k" * (MAX_KEY_CHARS + 1): 1}, {"k": -1}, {"k": MAX_SEQ + 1}])
def test_what_cannot_travel_is_the_owners_mistake(held: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="cannot be synced"):
        Holding(held)
