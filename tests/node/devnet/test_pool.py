"""The pool admits without gaps, replaces for 10 % more, and gives blocks their best order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.devnet import pool as pool_module
from node.devnet.pool import Pool, Refused, Waiting

A, B = b"\x0a" * 20, b"\x0b" * 20
RICH = 10**30


def tx(nonce: int, fee: int = 100, tip: int = 10, sender: bytes = A, **changes: int) -> Waiting:
    gas, value = changes.get("gas", 21_000), changes.get("value", 0)
    raw = repr((sender, nonce, fee, tip, gas, value)).encode()
    return Waiting(
        hash=raw,
        sender=sender,
        nonce=nonce,
        max_fee_wei=fee,
        priority_fee_wei=tip,
        gas_limit=gas,
        value_wei=value,
        raw=raw,
    )


def filled(*txs: Waiting) -> Pool:
    pool = Pool()
    for one in txs:
        pool.admit(one, 0, RICH)
    return pool


def test_next_nonce_counts_what_waits() -> None:
    pool = filled(tx(0), tx(1), tx(0, sender=B))
    assert (pool.next_nonce(A, 0), pool.next_nonce(B, 0), pool.next_nonce(b"", 7)) == (2, 1, 7)


@pytest.mark.parametrize(
    ("newcomer", "words"),
    [
        (tx(4), "nonce too low: next nonce 5, tx nonce 4"),
        (tx(7), "nonce too high: next nonce 6, tx nonce 7"),
        (tx(5), "already known"),
        (tx(5, fee=109, tip=11), "replacement transaction underpriced"),
        (tx(5, fee=110, tip=10), "replacement transaction underpriced"),
        (tx(6, value=RICH), "insufficient funds"),
    ],
)
def test_refusals(newcomer: Waiting, words: str) -> None:
    pool = Pool()
    pool.admit(tx(5), 5, RICH)
    with pytest.raises(Refused, match=words):
        pool.admit(newcomer, 5, RICH)
    assert len(pool) == 1


def test_replacement_takes_the_place() -> None:
    old, new = tx(0), tx(0, fee=110, tip=11)
    pool = filled(old)
    assert pool.admit(new, 0, RICH) == old
    assert (pool.get(old.hash), pool.get(new.hash), len(pool)) == (None, new, 1)


def test_all_that_waits_must_be_affordable_together() -> None:
    pool = Pool()
    cost = tx(0).cost_wei
    pool.admit(tx(0), 0, 2 * cost)
    with pytest.raises(Refused, match="overshot 1"):
        pool.admit(tx(1), 0, 2 * cost - 1)
    pool.admit(tx(1), 0, 2 * cost)
    pool.admit(tx(0, fee=120, tip=12), 0, 3 * cost)


def test_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = filled(*(tx(i) for i in range(pool_module.PER_SENDER)))
    with pytest.raises(Refused, match="full"):
        pool.admit(tx(pool_module.PER_SENDER), 0, RICH)
    monkeypatch.setattr(pool_module, "TOTAL", pool_module.PER_SENDER)
    with pytest.raises(Refused, match="full"):
        pool.admit(tx(0, sender=B), 0, RICH)
    pool.admit(tx(0, fee=200, tip=20), 0, RICH)  # a replacement takes no room


def test_block_takes_the_best_tip_but_keeps_the_order_of_nonces() -> None:
    pool = filled(tx(0, tip=1), tx(1, tip=50), tx(0, tip=5, sender=B))
    assert [(t.sender, t.nonce) for t in pool.ready(0, 10**9)] == [(B, 0), (A, 0), (A, 1)]


def test_block_leaves_what_is_too_cheap_and_what_follows_it() -> None:
    pool = filled(tx(0, fee=40), tx(1, fee=100), tx(0, sender=B))
    assert [(t.sender, t.nonce) for t in pool.ready(50, 10**9)] == [(B, 0)]


def test_block_is_not_overfilled() -> None:
    pool = filled(tx(0, gas=600), tx(0, gas=600, sender=B))
    assert len(pool.ready(0, 1000)) == 1


def test_drop_takes_those_that_follow() -> None:
    pool = filled(tx(0), tx(1), tx(2))
    gone = pool.drop(tx(1))
    assert [t.nonce for t in gone] == [1, 2]
    assert pool.next_nonce(A, 0) == 1
    pool.remove(tx(0))
    pool.remove(tx(0))
    assert len(pool) == 0


@given(st.lists(st.tuples(st.sampled_from([A, B]), st.integers(0, 4), st.integers(1, 5)), max_size=40))
def test_what_waits_never_has_gaps(commands: list[tuple[bytes, int, int]]) -> None:
    pool = Pool()
    waiting: dict[tuple[bytes, int], int] = {}
    for sender, nonce, price in commands:
        try:
            pool.admit(tx(nonce, fee=price * 100, tip=price * 10, sender=sender), 0, RICH)
        except Refused:
            continue
        assert waiting.get((sender, nonce), 0) < price
        waiting[sender, nonce] = price
        for one in (A, B):
            nonces = sorted(n for s, n in waiting if s == one)
            assert nonces == list(range(len(nonces)))
            assert pool.next_nonce(one, 0) == len(nonces)
    chosen = pool.ready(0, 10**12)
    assert len(chosen) == len(waiting)
