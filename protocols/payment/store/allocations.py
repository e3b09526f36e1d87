"""Accounts, allocations and what allocations have promised."""

# ruff: noqa: S608  (statements are made of this module's constants; values are bound)
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from protocols.payment.core.orders import Debt
from protocols.payment.records import Account, Allocation, Expenditure
from protocols.payment.store.form import first, wei, where

if TYPE_CHECKING:
    from p2p.storage import Connection

_ALLOCATION = (
    "SELECT allocation_id, owner, platform, address, total_wei, spent_wei, created_ns, updated_ns, timeout_ns,"
    " released_ns FROM payment_allocation"
)


def keep_account(c: Connection, account: Account) -> Account:
    """Store an account; its flags are added to those that it has. Return the sum."""
    c.execute(
        "INSERT INTO payment_account VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
        " send = max(send, excluded.send), receive = max(receive, excluded.receive)",
        (account.owner, account.platform, account.address, account.send, account.receive),
    )
    (kept,) = (
        a
        for a in accounts(c, account.owner)
        if (a.platform, a.address) == (account.platform, account.address)
    )
    return kept


def accounts(c: Connection, owner: str | None) -> list[Account]:
    """List accounts: of one identity, or of all."""
    clause, values = where(("owner = ?", owner))
    rows = c.execute(
        f"SELECT owner, platform, address, send, receive FROM payment_account{clause}"
        " ORDER BY owner, platform, address",
        values,
    )
    return [
        Account(owner=o, platform=platform, address=address, send=bool(send), receive=bool(receive))
        for o, platform, address, send, receive in rows
    ]


def allocation(c: Connection, owner: str, allocation_id: str) -> Allocation | None:
    """Return an allocation, released or not."""
    row = first(c, f"{_ALLOCATION} WHERE allocation_id = ? AND owner = ?", (allocation_id, owner))
    return _allocation(row) if row else None


def live_allocations(
    c: Connection, owner: str, *, now_ns: int, after_ns: int | None = None, limit: int | None = None
) -> list[Allocation]:
    """List an identity's allocations that can be spent from, oldest first."""
    rows = c.execute(
        f"{_ALLOCATION} WHERE owner = ? AND created_ns > ? AND released_ns IS NULL AND timeout_ns > ?"
        " ORDER BY created_ns, allocation_id LIMIT ?",
        (owner, -1 if after_ns is None else after_ns, now_ns, -1 if limit is None else limit),
    )
    return [_allocation(row) for row in rows]


def all_allocations(c: Connection, owner: str) -> list[Allocation]:
    """List an identity's allocations, released ones included."""
    rows = c.execute(f"{_ALLOCATION} WHERE owner = ? ORDER BY created_ns, allocation_id", (owner,))
    return [_allocation(row) for row in rows]


def promised(c: Connection, owner: str, agreement_id: str) -> int:
    """Return what all allocations have promised under an agreement."""
    rows = c.execute(
        "SELECT accepted_wei FROM payment_expenditure WHERE owner = ? AND agreement_id = ?",
        (owner, agreement_id),
    )
    return sum(int(row[0]) for row in rows)


def wallet_allocations(c: Connection, platform: str, address: str, now_ns: int) -> list[Allocation]:
    """List the live allocations of a wallet, whichever identity made them."""
    rows = c.execute(
        f"{_ALLOCATION} WHERE platform = ? AND address = ? AND released_ns IS NULL AND timeout_ns > ?",
        (platform, address, now_ns),
    )
    return [_allocation(row) for row in rows]


def insert_allocation(c: Connection, allocation: Allocation) -> None:
    """Store a new allocation."""
    c.execute(
        "INSERT INTO payment_allocation VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, NULL)",
        (
            allocation.allocation_id, allocation.owner, allocation.platform, allocation.address,
            str(allocation.total_wei), wei(allocation.spent_wei), allocation.created_ns,
            allocation.updated_ns, allocation.timeout_ns,
        ),
    )  # fmt: skip


def update_allocation(c: Connection, allocation: Allocation) -> None:
    """Store an allocation's total, spending and timeout."""
    c.execute(
        "UPDATE payment_allocation SET total_wei = ?, spent_wei = ?, timeout_ns = ?, updated_ns = ?"
        " WHERE allocation_id = ?",
        (
            str(allocation.total_wei),
            wei(allocation.spent_wei),
            allocation.timeout_ns,
            allocation.updated_ns,
            allocation.allocation_id,
        ),
    )


def release(c: Connection, allocation_id: str, now_ns: int) -> None:
    """Mark an allocation as released."""
    c.execute(
        "UPDATE payment_allocation SET released_ns = ? WHERE allocation_id = ? AND released_ns IS NULL",
        (now_ns, allocation_id),
    )


def timed_out(c: Connection, now_ns: int, limit: int) -> list[Allocation]:
    """List allocations whose time is over and that were not released yet."""
    rows = c.execute(
        f"{_ALLOCATION} WHERE released_ns IS NULL AND timeout_ns <= ? ORDER BY timeout_ns LIMIT ?",
        (now_ns, limit),
    )
    return [_allocation(row) for row in rows]


def next_timeout(c: Connection) -> int | None:
    """Return when the next allocation times out."""
    row = first(c, "SELECT min(timeout_ns) FROM payment_allocation WHERE released_ns IS NULL")
    return row[0] if row else None


def promise(
    c: Connection,
    allocation: Allocation,
    agreement_id: str,
    activity_id: str | None,
    amount_wei: int,
    *,
    payable: bool,
    due_ns: int,
    now_ns: int,
) -> None:
    """Add to what an allocation promises to an activity, or to an agreement's invoice (None)."""
    key = (allocation.allocation_id, agreement_id, activity_id or "")
    row = first(
        c,
        "SELECT accepted_wei, scheduled_wei, payable, due_ns, accepted_ns FROM payment_expenditure"
        " WHERE allocation_id = ? AND agreement_id = ? AND activity_id = ?",
        key,
    )
    accepted, scheduled = (int(row[0]), int(row[1])) if row else (0, 0)
    waits = row is not None and scheduled < accepted
    c.execute(
        "INSERT INTO payment_expenditure VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET accepted_wei = excluded.accepted_wei, payable = excluded.payable,"
        " due_ns = excluded.due_ns, accepted_ns = excluded.accepted_ns",
        (
            *key,
            allocation.owner,
            wei(accepted + amount_wei),
            wei(scheduled),
            max(payable, row[2]) if waits else payable,
            min(due_ns, row[3]) if waits and payable <= row[2] else due_ns,
            row[4] if waits else now_ns,
        ),
    )


def make_payable(c: Connection, owner: str, agreement_id: str, activity_id: str | None, due_ns: int) -> None:
    """Promise payment by `due_ns` of what waits for an activity, or under the whole agreement (None)."""
    c.execute(
        "UPDATE payment_expenditure SET due_ns = CASE WHEN payable THEN min(due_ns, ?) ELSE ? END, payable = 1"
        " WHERE owner = ? AND agreement_id = ? AND (? IS NULL OR activity_id = ?)"
        " AND scheduled_wei < accepted_wei",
        (due_ns, due_ns, owner, agreement_id, activity_id, activity_id),
    )


def debts(c: Connection, owner: str, platform: str, payer_addr: str) -> list[Debt]:
    """List what a wallet's allocations have promised and what is in no order yet."""
    rows = c.execute(
        "SELECT e.allocation_id, e.agreement_id, e.activity_id, g.provider_id, g.payee_addr, e.accepted_wei,"
        " e.scheduled_wei, e.payable, e.due_ns, e.accepted_ns FROM payment_expenditure e"
        " JOIN payment_agreement g ON g.owner = e.owner AND g.role = 'R' AND g.agreement_id = e.agreement_id"
        " WHERE e.owner = ? AND e.scheduled_wei < e.accepted_wei AND g.platform = ? AND g.payer_addr = ?"
        " ORDER BY e.accepted_ns, e.allocation_id, e.agreement_id, e.activity_id",
        (owner, platform, payer_addr),
    )
    return [
        Debt(
            allocation_id=allocation_id,
            agreement_id=agreement_id,
            activity_id=activity_id or None,
            peer=peer,
            payee_addr=payee,
            amount_wei=int(accepted) - int(scheduled),
            payable=bool(payable),
            due_ns=due_ns,
            accepted_ns=accepted_ns,
        )
        for (
            allocation_id, agreement_id, activity_id, peer, payee, accepted, scheduled, payable, due_ns,
            accepted_ns,
        ) in rows
    ]  # fmt: skip


def wallets_with_debts(c: Connection) -> list[tuple[str, str, str]]:
    """List (owner, platform, payer address) of every wallet with debts that are in no order yet."""
    rows = c.execute(
        "SELECT DISTINCT e.owner, g.platform, g.payer_addr FROM payment_expenditure e"
        " JOIN payment_agreement g ON g.owner = e.owner AND g.role = 'R' AND g.agreement_id = e.agreement_id"
        " WHERE e.scheduled_wei < e.accepted_wei ORDER BY 1, 2, 3"
    )
    return [(owner, platform, payer) for owner, platform, payer in rows]


def schedule(c: Connection, debt: Debt) -> None:
    """Count a debt as put into an order."""
    c.execute(
        "UPDATE payment_expenditure SET scheduled_wei = accepted_wei"
        " WHERE allocation_id = ? AND agreement_id = ? AND activity_id = ?",
        (debt.allocation_id, debt.agreement_id, debt.activity_id or ""),
    )


def expenditures(c: Connection, allocation_id: str) -> list[Expenditure]:
    """List what an allocation has promised: invoices first, then activities."""
    rows = c.execute(
        "SELECT agreement_id, activity_id, accepted_wei, scheduled_wei FROM payment_expenditure"
        " WHERE allocation_id = ? ORDER BY agreement_id, activity_id",
        (allocation_id,),
    )
    return [
        Expenditure(
            allocation_id=allocation_id,
            agreement_id=agreement_id,
            activity_id=activity_id or None,
            accepted_wei=int(accepted),
            scheduled_wei=int(scheduled),
        )
        for agreement_id, activity_id, accepted, scheduled in rows
    ]


def _allocation(row: Any) -> Allocation:
    return Allocation(
        allocation_id=row[0],
        owner=row[1],
        platform=row[2],
        address=row[3],
        total_wei=int(row[4]),
        spent_wei=int(row[5]),
        created_ns=row[6],
        updated_ns=row[7],
        timeout_ns=row[8],
        released=row[9] is not None,
    )
