"""The ledger never gives away more than there is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from node.provider.resources import ResourceLedger, Resources

SHARE = Resources(2, 1.0, 4.0)


def test_as_many_as_fit() -> None:
    ledger = ResourceLedger(Resources(5, 16.0, 100.0))
    assert ledger.fits(SHARE) == 2
    assert ledger.reserve("a", SHARE)
    assert ledger.reserve("a", SHARE)
    assert ledger.fits(SHARE) == 1
    assert ledger.reserve("b", SHARE)
    assert not ledger.reserve("c", SHARE)
    assert ledger.release("a")
    assert not ledger.release("a")
    assert ledger.reserve("c", SHARE)


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.booleans())))
def test_never_over_committed(steps: list[tuple[str, bool]]) -> None:
    ledger = ResourceLedger(Resources(5, 3.0, 100.0))
    for holder, take in steps:
        if take:
            ledger.reserve(holder, SHARE)
        else:
            ledger.release(holder)
        assert ledger.total.covers(ledger.total.minus(ledger.free))
        assert ledger.free.threads >= 0
        assert ledger.free.mem_gib >= 0
