"""How debts become transfers: which are put into an order, one transfer a payee, how many a transaction.

Pure. A transfer's id is a hash of what makes it what it is, so building the same order twice gives the same
transfers, and a payee that hears of one twice counts it once.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Debt(msgspec.Struct, frozen=True, kw_only=True):
    """What one allocation has promised to one activity or invoice and has in no order yet."""

    allocation_id: str
    agreement_id: str
    activity_id: str | None
    peer: str
    payee_addr: str
    amount_wei: int
    payable: bool
    """Whether payment was promised: by a note with a due date, or an invoice."""
    due_ns: int
    """When it must be paid; for a debt without a promise, when it is paid nevertheless."""
    accepted_ns: int
    """When it was accepted first."""


def select(debts: Iterable[Debt], *, now_ns: int, least_wei: int) -> tuple[Debt, ...]:
    """Return the debts that an order built now should pay.

    All that were promised, because more in one transaction costs less, and those without a promise whose time
    has come. A payee whose sum is below `least_wei` is left for later: carried over, never dropped.
    """
    chosen = [d for d in debts if d.payable or d.due_ns <= now_ns]
    sums: dict[str, int] = {}
    for debt in chosen:
        sums[debt.payee_addr] = sums.get(debt.payee_addr, 0) + debt.amount_wei
    return tuple(d for d in chosen if sums[d.payee_addr] >= max(1, least_wei))


def by_payee(debts: Iterable[Debt]) -> dict[str, int]:
    """Return what each address gets, in the order of first mention."""
    sums: dict[str, int] = {}
    for debt in debts:
        sums[debt.payee_addr] = sums.get(debt.payee_addr, 0) + debt.amount_wei
    return sums


def transfer_id(owner: str, platform: str, order_id: str, payee_addr: str) -> str:
    """Return the id of what an order pays to an address: 32 hex digits. It is the payment's id too."""
    parts = "\0".join(("transfer/1", owner, platform, order_id, payee_addr))
    return hashlib.sha3_256(parts.encode()).hexdigest()[:32]


def chunks(count: int, most: int) -> Sequence[range]:
    """Return ranges over `count` transfers, each of at most `most`."""
    return [range(start, min(start + most, count)) for start in range(0, count, most)]
