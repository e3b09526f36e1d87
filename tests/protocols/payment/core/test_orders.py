"""Choosing debts for an order, and what makes a transfer one and the same."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from protocols.payment.core.orders import by_payee, select, transfer_id
from tests.protocols.payment.core.test_schedule import NOW, debt


def test_promised_debts_are_paid_together_before_they_are_due() -> None:
    debts = [debt(due_in=10), debt(due_in=10_000)]
    assert select(debts, now_ns=NOW, least_wei=0) == tuple(debts)


def test_a_debt_without_a_promise_is_left_until_its_time() -> None:
    waiting = debt(due_in=10, payable=False)
    assert select([waiting], now_ns=NOW, least_wei=0) == ()
    assert select([waiting], now_ns=waiting.due_ns, least_wei=0) == (waiting,)


def test_dust_is_carried_over_and_paid_when_it_adds_up() -> None:
    dust = [debt(due_in=1, amount=4, payee="0xa"), debt(due_in=1, amount=5, payee="0xb")]
    assert select(dust, now_ns=NOW, least_wei=5) == (dust[1],)
    more = [*dust, debt(due_in=1, amount=1, payee="0xa")]
    assert select(more, now_ns=NOW, least_wei=5) == tuple(more)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 9)), max_size=20))
def test_payees_get_the_sum_of_their_debts(parts: list[tuple[str, int]]) -> None:
    sums = by_payee([debt(due_in=1, amount=amount, payee=payee) for payee, amount in parts])
    assert sum(sums.values()) == sum(amount for _, amount in parts)
    assert set(sums) == {payee for payee, _ in parts}


def test_a_transfer_id_is_a_function_of_what_the_transfer_is() -> None:
    one = transfer_id("0xo", "erc20-devnet-tglm", "order", "0xp")
    assert one == transfer_id("0xo", "erc20-devnet-tglm", "order", "0xp")
    assert len(one) == 32
    others = {
        transfer_id("0xq", "erc20-devnet-tglm", "order", "0xp"),
        transfer_id("0xo", "erc20-hoodi-tglm", "order", "0xp"),
        transfer_id("0xo", "erc20-devnet-tglm", "order2", "0xp"),
        transfer_id("0xo", "erc20-devnet-tglm", "order", "0xr"),
    }
    assert one not in others
    assert len(others) == 4
