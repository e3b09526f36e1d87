"""Fees follow the market up to the ceiling, and replacements outbid by enough for every client."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from protocols.payment.drivers.erc20.fees import Fees, Market, offer, outbid
from protocols.payment.drivers.errors import FeeCeiling
from protocols.payment.networks import GWEI, Gas

GAS = Gas(priority_fee_wei=GWEI, max_fee_wei=20 * GWEI)
fees = st.integers(0, 30 * GWEI)
markets = st.builds(Market, fees, st.lists(fees, max_size=5).map(tuple))


def test_quiet_chain() -> None:
    assert offer(Market(2 * GWEI, ()), GAS) == Fees(5 * GWEI, GWEI)


def test_tip_follows_the_median() -> None:
    assert offer(Market(GWEI, (0, 3 * GWEI, 9 * GWEI)), GAS) == Fees(5 * GWEI, 3 * GWEI)


def test_ceiling_stops_a_new_transaction() -> None:
    with pytest.raises(FeeCeiling) as caught:
        offer(Market(20 * GWEI, ()), GAS)
    assert (caught.value.needed_wei, caught.value.ceiling_wei) == (21 * GWEI, 20 * GWEI)


@given(markets)
def test_offer_is_always_minable_and_within_the_ceiling(market: Market) -> None:
    try:
        chosen = offer(market, GAS)
    except FeeCeiling:
        assert market.base_fee_wei + GAS.priority_fee_wei > GAS.max_fee_wei
        return
    assert market.base_fee_wei + GAS.priority_fee_wei <= chosen.max_fee_wei <= GAS.max_fee_wei
    assert GAS.priority_fee_wei <= chosen.priority_fee_wei <= chosen.max_fee_wei


@given(markets, st.integers(0, 20 * GWEI), st.integers(0, 20 * GWEI))
def test_replacement_outbids_by_an_eighth(market: Market, max_fee: int, tip: int) -> None:
    assume(tip <= max_fee)
    old = Fees(max_fee, tip)
    try:
        new = outbid(old, market, GAS)
    except FeeCeiling:
        return
    for before, after in ((old.max_fee_wei, new.max_fee_wei), (old.priority_fee_wei, new.priority_fee_wei)):
        assert after * 8 >= before * 9
        assert after > before
    assert new.priority_fee_wei <= new.max_fee_wei <= GAS.max_fee_wei


def test_replacement_stops_at_the_ceiling() -> None:
    with pytest.raises(FeeCeiling):
        outbid(Fees(19 * GWEI, GWEI), Market(GWEI, ()), GAS)
