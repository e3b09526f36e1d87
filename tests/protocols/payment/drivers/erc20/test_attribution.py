"""Who paid whom: plain, batched both ways, paid from a deposit, and tangled on purpose."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from protocols.payment.drivers.erc20.attribution import Moved, payments

A, B, P, Q = (f"0x{letter * 40}" for letter in "abcd")
MULTI, LOCK, OTHER = (f"0x{digit * 40}" for digit in "123")


def paid(
    moves: list[tuple[str, str, int]], called: str | None = MULTI, sender: str = A
) -> dict[tuple[str, str], int]:
    return payments([Moved(*move) for move in moves], called, sender, LOCK)


def test_plain_transfer() -> None:
    assert paid([(A, P, 5)], called=OTHER) == {(A, P): 5}


def test_all_logs_count() -> None:
    assert paid([(A, P, 5), (A, Q, 1), (A, P, 7)]) == {(A, P): 12, (A, Q): 1}


def test_direct_batch_keeps_the_payer_whoever_sends_it() -> None:
    assert paid([(A, P, 5), (A, Q, 6)], sender=B) == {(A, P): 5, (A, Q): 6}


def test_indirect_batch_is_paid_by_who_sent_the_tokens_in() -> None:
    found = paid([(A, MULTI, 11), (MULTI, P, 5), (MULTI, Q, 6)])
    assert found[A, P] == 5
    assert found[A, Q] == 6
    assert (MULTI, P) not in found


def test_two_who_send_in_are_served_in_order() -> None:
    found = paid([(A, MULTI, 5), (B, MULTI, 5), (MULTI, P, 7), (MULTI, Q, 3)])
    assert (found[A, P], found[B, P], found[B, Q]) == (5, 2, 3)


def test_contract_own_tokens_are_its_own() -> None:
    found = paid([(A, MULTI, 5), (MULTI, P, 8)])
    assert (found[A, P], found[MULTI, P]) == (5, 3)


def test_tokens_that_pass_another_contract_are_not_followed() -> None:
    found = paid([(A, OTHER, 5), (OTHER, P, 5)])
    assert (A, P) not in found
    assert found[OTHER, P] == 5


def test_lock_payout_is_the_senders() -> None:
    assert paid([(LOCK, P, 5)], called=LOCK) == {(A, P): 5}


def test_lock_payout_by_way_of_another_contract_is_not_the_senders() -> None:
    assert paid([(LOCK, P, 5)], called=OTHER) == {(LOCK, P): 5}


def test_what_came_before_the_tokens_entered_is_not_theirs() -> None:
    found = paid([(MULTI, P, 5), (A, MULTI, 5)])
    assert (A, P) not in found


names = st.sampled_from([A, B, P, Q, MULTI, LOCK])


@given(
    st.lists(st.tuples(names, names, st.integers(0, 1000)), max_size=12),
    st.sampled_from([MULTI, LOCK, OTHER, None]),
)
def test_each_token_is_counted_for_one_payer(moves: list[tuple[str, str, int]], called: str | None) -> None:
    found = paid(moves, called)
    for payee in (A, B, P, Q, MULTI, LOCK):
        received = sum(amount for _, target, amount in moves if target == payee)
        assert sum(amount for (_, to), amount in found.items() if to == payee) == received
