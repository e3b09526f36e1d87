"""Small rules: spending, decorations, how sure a payment is."""

from __future__ import annotations

import msgspec
import pytest

from protocols.payment.core.decorations import decorate
from protocols.payment.core.spending import check_amendment, check_purpose, reserved, spend
from protocols.payment.core.verification import check_cover, check_pause_s, judge
from protocols.payment.errors import BadRequest, NotEnoughFunds
from protocols.payment.records import Allocation, PaymentState

SEEN, CONFIRMED, FINAL = PaymentState.SEEN, PaymentState.CONFIRMED, PaymentState.FINAL


def allocation(
    total: int = 100, spent: int = 0, platform: str = "erc20-hoodi-tglm", address: str = "0xa"
) -> Allocation:
    return Allocation(
        allocation_id="al",
        owner="0xo",
        platform=platform,
        address=address,
        total_wei=total,
        spent_wei=spent,
        created_ns=0,
        updated_ns=0,
        timeout_ns=10,
        released=False,
    )


def test_spending_up_to_the_last_wei() -> None:
    assert spend(allocation(100, 40), 60) == 100
    with pytest.raises(NotEnoughFunds, match=r"^Not enough funds. Allocated: 0.00000000000000006 Needed: "):
        spend(allocation(100, 40), 61)


def test_nothing_is_always_affordable() -> None:
    assert spend(allocation(-5), 0) == 0


def test_a_negative_allocation_frees_nothing() -> None:
    assert reserved([allocation(-1000), allocation(100, 30)], owed_wei=7) == 77


def test_amendments() -> None:
    check_amendment(allocation(100, 40), 40, 5, 5)
    with pytest.raises(BadRequest, match="smaller than the already spent amount"):
        check_amendment(allocation(100, 40), 39, 5, 5)
    with pytest.raises(BadRequest, match="timeout is in the past"):
        check_amendment(allocation(100, 40), 40, 4, 5)


def test_an_allocation_pays_on_its_platform_from_its_wallet() -> None:
    check_purpose(allocation(), "erc20-hoodi-tglm", "0xa")
    with pytest.raises(BadRequest):
        check_purpose(allocation(), "erc20-devnet-tglm", "0xa")
    with pytest.raises(BadRequest):
        check_purpose(allocation(), "erc20-hoodi-tglm", "0xb")


def test_decorations_of_one_allocation() -> None:
    made = decorate([allocation()])
    assert made.properties == (
        ("golem.com.payment.platform.erc20-hoodi-tglm.address", "0xa"),
        ("golem.com.payment.protocol.version", "3"),
    )
    assert made.constraints == (
        "(golem.com.payment.platform.erc20-hoodi-tglm.address=*)",
        "(golem.com.payment.protocol.version>1)",
    )


def test_decorations_of_several_allocations_are_an_or_over_lines() -> None:
    made = decorate([allocation(), allocation(platform="erc20-devnet-tglm")])
    assert made.constraints[0] == (
        "(|\n  (golem.com.payment.platform.erc20-devnet-tglm.address=*)"
        "\n  (golem.com.payment.platform.erc20-hoodi-tglm.address=*)\n)"
    )


@pytest.mark.parametrize(
    ("state", "confirmations", "age", "expected"),
    [
        (SEEN, 0, 0, SEEN),
        (SEEN, 2, 1e9, SEEN),
        (SEEN, 3, 0, CONFIRMED),
        (SEEN, 99, 1e9, CONFIRMED),
        (CONFIRMED, 3, 10, CONFIRMED),
        (CONFIRMED, 2, 10, SEEN),
        (CONFIRMED, 0, 1e9, SEEN),
        (CONFIRMED, 12, 10, FINAL),
        (CONFIRMED, 3, 3600, FINAL),
        (FINAL, 0, 0, FINAL),
    ],
)
def test_judging_a_payment(
    state: PaymentState, confirmations: int, age: float, expected: PaymentState
) -> None:
    assert judge(state, confirmations, depth=3, age_s=age) is expected


def test_looks_become_rarer() -> None:
    pauses = [check_pause_s(SEEN, age, 0.25) for age in (0, 1, 10, 100, 1e6)]
    assert pauses == sorted(pauses)
    assert pauses[0] == 0.25
    assert pauses[-1] == 60.0


def test_no_wei_is_claimed_twice() -> None:
    check_cover(60, [40], 100)
    with pytest.raises(BadRequest, match="claimed"):
        check_cover(61, [40], 100)
    with pytest.raises(BadRequest):
        check_cover(1, [], 0)


def test_an_allocation_knows_what_is_left() -> None:
    assert msgspec.structs.replace(allocation(), spent_wei=30).remaining_wei == 70
