"""Orders, their entries and transfers, and payment cycles."""

# ruff: noqa: S608  (statements are made of this module's constants; values are bound)
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from protocols.payment.records import Cycle, Order, OrderEntry
from protocols.payment.store.form import first, wei, where

if TYPE_CHECKING:
    from collections.abc import Sequence

    from p2p.storage import Connection


class TransferRow(msgspec.Struct, frozen=True, kw_only=True):
    """What one order pays to one address."""

    transfer_id: str
    order_id: str
    owner: str
    platform: str
    payee_addr: str
    amount_wei: int
    batch_id: int | None
    tx_hash: str | None
    """Set once it is paid."""


_ORDER = "order_id, owner, platform, payer_addr, total_wei, paid_wei, created_ns, updated_ns"
_TRANSFER = "transfer_id, order_id, owner, platform, payee_addr, amount_wei, batch_id, tx_hash"


def insert_order(c: Connection, order: Order) -> None:
    """Store a new order."""
    c.execute(
        f"INSERT INTO payment_order({_ORDER}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            order.order_id, order.owner, order.platform, order.payer_addr, wei(order.total_wei),
            wei(order.paid_wei), order.created_ns, order.updated_ns,
        ),
    )  # fmt: skip


def insert_transfer(c: Connection, row: TransferRow, *, network: str, sender: str, now_ns: int) -> None:
    """Store a transfer that waits to be sent; storing it again changes nothing."""
    c.execute(
        "INSERT INTO payment_transfer(transfer_id, order_id, owner, platform, network, sender, payee_addr,"
        " amount_wei, created_ns) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (
            row.transfer_id, row.order_id, row.owner, row.platform, network, sender, row.payee_addr,
            wei(row.amount_wei), now_ns,
        ),
    )  # fmt: skip


def insert_entry(c: Connection, entry: OrderEntry) -> None:
    """Store one debt of an order."""
    c.execute(
        "INSERT INTO payment_order_entry VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            entry.order_id, entry.allocation_id, entry.agreement_id, entry.activity_id or "",
            entry.transfer_id, entry.owner, entry.peer, entry.payee_addr, entry.invoice_id,
            entry.debit_note_id, wei(entry.amount_wei),
        ),
    )  # fmt: skip


def orders(c: Connection, owner: str, order_id: str | None = None) -> list[Order]:
    """List an identity's orders, oldest first."""
    clause, values = where(("owner = ?", owner), ("order_id = ?", order_id))
    rows = c.execute(f"SELECT {_ORDER} FROM payment_order{clause} ORDER BY created_ns, order_id", values)
    return [
        Order(
            order_id=row[0],
            owner=row[1],
            platform=row[2],
            payer_addr=row[3],
            total_wei=int(row[4]),
            paid_wei=int(row[5]),
            created_ns=row[6],
            updated_ns=row[7],
        )
        for row in rows
    ]


def add_paid(c: Connection, order_id: str, amount_wei: int, now_ns: int) -> None:
    """Count `amount_wei` of an order as paid."""
    (paid,) = first(c, "SELECT paid_wei FROM payment_order WHERE order_id = ?", (order_id,))
    c.execute(
        "UPDATE payment_order SET paid_wei = ?, updated_ns = ? WHERE order_id = ?",
        (wei(int(paid) + amount_wei), now_ns, order_id),
    )


def entries(
    c: Connection,
    owner: str | None,
    *,
    order_id: str | None = None,
    allocation_id: str | None = None,
    agreement_id: str | None = None,
    activity_id: str | None = None,
    payee_addr: str | None = None,
    transfer_id: str | None = None,
) -> list[OrderEntry]:
    """List debts in orders by any key; `activity_id` may be '' for invoices."""
    clause, values = where(
        ("e.owner = ?", owner),
        ("e.order_id = ?", order_id),
        ("e.allocation_id = ?", allocation_id),
        ("e.agreement_id = ?", agreement_id),
        ("e.activity_id = ?", activity_id),
        ("e.payee_addr = ?", payee_addr),
        ("e.transfer_id = ?", transfer_id),
    )
    rows = c.execute(
        "SELECT e.order_id, e.owner, e.payee_addr, e.peer, e.allocation_id, e.agreement_id, e.activity_id,"
        " e.invoice_id, e.debit_note_id, e.amount_wei, e.transfer_id, t.tx_hash IS NOT NULL, o.created_ns,"
        " o.updated_ns FROM payment_order_entry e JOIN payment_transfer t USING (transfer_id)"
        f" JOIN payment_order o ON o.order_id = e.order_id{clause}"
        " ORDER BY o.created_ns, e.order_id, e.payee_addr, e.agreement_id, e.activity_id, e.allocation_id",
        values,
    )
    return [_entry(row) for row in rows]


def waiting_transfers(
    c: Connection, network: str, sender: str, platform: str | None, limit: int
) -> list[TransferRow]:
    """List a lane's transfers that are in no batch, oldest first."""
    clause, values = where(("network = ?", network), ("sender = ?", sender), ("platform = ?", platform))
    rows = c.execute(
        f"SELECT {_TRANSFER} FROM payment_transfer{clause} AND batch_id IS NULL"
        " ORDER BY created_ns, transfer_id LIMIT ?",
        (*values, limit),
    )
    return [_transfer(row) for row in rows]


def batch_transfers(c: Connection, batch_id: int) -> list[TransferRow]:
    """List the transfers of a batch."""
    rows = c.execute(
        f"SELECT {_TRANSFER} FROM payment_transfer WHERE batch_id = ? ORDER BY transfer_id", (batch_id,)
    )
    return [_transfer(row) for row in rows]


def assign_batch(c: Connection, transfer_ids: Sequence[str], batch_id: int | None) -> None:
    """Put transfers into a batch, or (None) back among those that wait."""
    c.executemany(
        "UPDATE payment_transfer SET batch_id = ? WHERE transfer_id = ?",
        [(batch_id, transfer_id) for transfer_id in transfer_ids],
    )


def set_paid(c: Connection, transfer_id: str, tx_hash: str) -> None:
    """Note which transaction paid a transfer."""
    c.execute("UPDATE payment_transfer SET tx_hash = ? WHERE transfer_id = ?", (tx_hash, transfer_id))


def cycle(c: Connection, owner: str, platform: str) -> Cycle | None:
    """Return a payment cycle that was used or set before."""
    row = first(
        c,
        "SELECT interval_s, cron, max_interval_s, extra_s, last_ns, next_ns FROM payment_cycle"
        " WHERE owner = ? AND platform = ?",
        (owner, platform),
    )
    if row is None:
        return None
    return Cycle(
        owner=owner,
        platform=platform,
        interval_s=row[0],
        cron=row[1],
        max_interval_s=row[2],
        extra_s=row[3],
        last_ns=row[4],
        next_ns=row[5],
    )


def keep_cycle(c: Connection, cycle: Cycle) -> None:
    """Store a payment cycle."""
    c.execute(
        "INSERT INTO payment_cycle VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
        " interval_s = excluded.interval_s, cron = excluded.cron, max_interval_s = excluded.max_interval_s,"
        " extra_s = excluded.extra_s, last_ns = excluded.last_ns, next_ns = excluded.next_ns",
        (
            cycle.owner, cycle.platform, cycle.interval_s, cycle.cron, cycle.max_interval_s, cycle.extra_s,
            cycle.last_ns, cycle.next_ns,
        ),
    )  # fmt: skip


def _transfer(row: Any) -> TransferRow:
    return TransferRow(
        transfer_id=row[0],
        order_id=row[1],
        owner=row[2],
        platform=row[3],
        payee_addr=row[4],
        amount_wei=int(row[5]),
        batch_id=row[6],
        tx_hash=row[7],
    )


def _entry(row: Any) -> OrderEntry:
    return OrderEntry(
        order_id=row[0],
        owner=row[1],
        payee_addr=row[2],
        peer=row[3],
        allocation_id=row[4],
        agreement_id=row[5],
        activity_id=row[6] or None,
        invoice_id=row[7],
        debit_note_id=row[8],
        amount_wei=int(row[9]),
        transfer_id=row[10],
        paid=bool(row[11]),
        created_ns=row[12],
        updated_ns=row[13],
    )
