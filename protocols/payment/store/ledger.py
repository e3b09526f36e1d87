"""Agreements, activities and their totals in the database."""

# ruff: noqa: S608  (statements are made of this module's constants; values are bound)
from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Literal

from protocols.payment.core.documents import OWNED
from protocols.payment.core.ledger import AgreementLedger
from protocols.payment.records import Agreement, LedgerRow, Role, Status, Totals
from protocols.payment.store.form import first, wei, where

if TYPE_CHECKING:
    from collections.abc import Iterator

    from p2p.storage import Connection

_AGREEMENT = (
    "agreement_id, requestor_id, provider_id, platform, payer_addr, payee_addr, session_id, payment_timeout_s"
)
_TOTALS = "due_wei, accepted_wei, scheduled_wei, paid_wei"


def agreement(c: Connection, owner: str, role: Role, agreement_id: str) -> Agreement | None:
    """Return what is known of an agreement's money."""
    row = first(
        c,
        f"SELECT {_AGREEMENT} FROM payment_agreement WHERE owner = ? AND role = ? AND agreement_id = ?",
        (owner, role, agreement_id),
    )
    return _agreement(row) if row else None


def keep_agreement(c: Connection, owner: str, role: Role, facts: Agreement, now_ns: int) -> Agreement:
    """Store an agreement's facts unless they are stored; return what is stored: the first use counts."""
    zero = wei(0)
    c.execute(
        f"INSERT INTO payment_agreement(owner, role, {_AGREEMENT}, {_TOTALS}, created_ns, updated_ns)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (
            owner, role, facts.agreement_id, facts.requestor_id, facts.provider_id, facts.platform,
            facts.payer_addr, facts.payee_addr, facts.session_id, facts.payment_timeout_s,
            zero, zero, zero, zero, now_ns, now_ns,
        ),
    )  # fmt: skip
    kept = agreement(c, owner, role, facts.agreement_id)
    assert kept is not None
    return kept


def keep_activity(
    c: Connection, owner: str, role: Role, activity_id: str, agreement_id: str, now_ns: int
) -> None:
    """Store that an activity belongs to an agreement, unless that is stored."""
    zero = wei(0)
    c.execute(
        f"INSERT INTO payment_activity(owner, role, activity_id, agreement_id, {_TOTALS}, created_ns, updated_ns)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (owner, role, activity_id, agreement_id, zero, zero, zero, zero, now_ns, now_ns),
    )


def agreement_of_activity(c: Connection, owner: str, role: Role, activity_id: str) -> str | None:
    """Return the agreement of an activity that was billed before."""
    row = first(
        c,
        "SELECT agreement_id FROM payment_activity WHERE owner = ? AND role = ? AND activity_id = ?",
        (owner, role, activity_id),
    )
    return row[0] if row else None


@contextlib.contextmanager
def changing(
    c: Connection, owner: str, role: Role, agreement_id: str, now_ns: int
) -> Iterator[AgreementLedger]:
    """Give an agreement's ledger, and store what was changed in it."""
    ledger = load(c, owner, role, agreement_id)
    before, totals = dict(ledger.activities), ledger.totals
    yield ledger
    for activity_id, now in ledger.activities.items():
        if now != before.get(activity_id):
            keep_activity(c, owner, role, activity_id, agreement_id, now_ns)
            c.execute(
                "UPDATE payment_activity SET due_wei = ?, accepted_wei = ?, scheduled_wei = ?, paid_wei = ?,"
                " updated_ns = ? WHERE owner = ? AND role = ? AND activity_id = ?",
                (*_columns(now), now_ns, owner, role, activity_id),
            )
    if ledger.totals != totals:
        c.execute(
            "UPDATE payment_agreement SET due_wei = ?, accepted_wei = ?, scheduled_wei = ?, paid_wei = ?,"
            " updated_ns = ? WHERE owner = ? AND role = ? AND agreement_id = ?",
            (*_columns(ledger.totals), now_ns, owner, role, agreement_id),
        )


def load(c: Connection, owner: str, role: Role, agreement_id: str) -> AgreementLedger:
    """Return an agreement's ledger."""
    key = (owner, role, agreement_id)
    where = " WHERE owner = ? AND role = ? AND agreement_id = ?"
    row = first(c, f"SELECT {_TOTALS} FROM payment_agreement{where}", key)
    activities = c.execute(f"SELECT activity_id, {_TOTALS} FROM payment_activity{where}", key)
    return AgreementLedger(
        _totals(row) if row else None,
        {activity_id: _totals(totals) for activity_id, *totals in activities},
        invoice_wei=largest_invoice(c, owner, role, agreement_id),
    )


def largest_invoice(c: Connection, owner: str, role: Role, agreement_id: str) -> int:
    """Return the largest invoice of an agreement that is not cancelled; 0 without one."""
    row = first(
        c,
        "SELECT max(amount_wei) FROM payment_invoice"
        " WHERE owner = ? AND role = ? AND agreement_id = ? AND status <> ?",
        (owner, role, agreement_id, Status.CANCELLED.value),
    )
    return int(row[0] or 0)


def invoice_owned(c: Connection, owner: str, role: Role, agreement_id: str) -> bool:
    """Return whether an invoice over the agreement was accepted."""
    row = first(
        c,
        "SELECT 1 FROM payment_invoice WHERE owner = ? AND role = ? AND agreement_id = ?"
        " AND status IN (SELECT value FROM json_each(?))",
        (owner, role, agreement_id, "[" + ",".join(f'"{s.value}"' for s in OWNED) + "]"),
    )
    return row is not None


def billed(c: Connection, owner: str, role: Role, agreement_id: str) -> int:
    """Return what the debit notes of an agreement ask for: the highest of each activity, added up."""
    rows = c.execute(
        "SELECT max(total_wei) FROM payment_debit_note WHERE owner = ? AND role = ? AND agreement_id = ?"
        " GROUP BY activity_id",
        (owner, role, agreement_id),
    )
    return sum(int(row[0]) for row in rows)


def agreement_rows(
    c: Connection, owner: str | None, agreement_id: str | None = None, role: Role | None = None
) -> list[LedgerRow]:
    """List agreements with their totals, oldest first."""
    clause, values = where(("owner = ?", owner), ("agreement_id = ?", agreement_id), ("role = ?", role))
    rows = c.execute(
        f"SELECT owner, role, created_ns, updated_ns, {_TOTALS}, {_AGREEMENT} FROM payment_agreement{clause}"
        " ORDER BY created_ns, agreement_id, role DESC",
        values,
    )
    return [_row(row[8], row) for row in rows]


def activity_rows(
    c: Connection, owner: str | None, activity_id: str | None = None, agreement_id: str | None = None
) -> list[LedgerRow]:
    """List activities with their totals, oldest first."""
    columns = ", ".join(f"a.{name.strip()}" for name in f"created_ns, updated_ns, {_TOTALS}".split(","))
    facts = ", ".join(f"g.{name.strip()}" for name in _AGREEMENT.split(","))
    clause, values = where(
        ("a.owner = ?", owner), ("a.activity_id = ?", activity_id), ("a.agreement_id = ?", agreement_id)
    )
    rows = c.execute(
        f"SELECT a.owner, a.role, {columns}, {facts}, a.activity_id FROM payment_activity a"
        f" JOIN payment_agreement g USING (owner, role, agreement_id){clause}"
        " ORDER BY a.created_ns, a.activity_id, a.role DESC",
        values,
    )
    return [_row(row[-1], row) for row in rows]


def sums(
    c: Connection,
    owner: str,
    role: Role,
    platform: str,
    side: Literal["payer_addr", "payee_addr"],
    address: str,
) -> list[Totals]:
    """Return the totals of every agreement of a wallet."""
    rows = c.execute(
        f"SELECT {_TOTALS} FROM payment_agreement WHERE owner = ? AND role = ? AND platform = ? AND {side} = ?",
        (owner, role, platform, address),
    )
    return [_totals(row) for row in rows]


def owed(c: Connection, platform: str, payer_addr: str) -> int:
    """Return what is accepted by any of our identities and has not left the wallet yet."""
    rows = c.execute(
        "SELECT accepted_wei, paid_wei FROM payment_agreement"
        " WHERE role = 'R' AND platform = ? AND payer_addr = ? AND paid_wei < accepted_wei",
        (platform, payer_addr),
    )
    return sum(int(accepted) - int(paid) for accepted, paid in rows)


def _row(id_: str, row: Any) -> LedgerRow:
    facts = _agreement(row[8:16])
    role: Role = row[1]
    return LedgerRow(
        id=id_,
        owner=row[0],
        role=role,
        agreement_id=facts.agreement_id,
        peer=facts.provider_id if role == "R" else facts.requestor_id,
        payee_addr=facts.payee_addr,
        payer_addr=facts.payer_addr,
        platform=facts.platform,
        session_id=facts.session_id,
        totals=_totals(row[4:8]),
        created_ns=row[2],
        updated_ns=row[3],
    )


def _agreement(row: Any) -> Agreement:
    return Agreement(
        agreement_id=row[0],
        requestor_id=row[1],
        provider_id=row[2],
        platform=row[3],
        payer_addr=row[4],
        payee_addr=row[5],
        session_id=row[6],
        payment_timeout_s=row[7],
    )


def _totals(row: Any) -> Totals:
    due, accepted, scheduled, paid = map(int, row)
    return Totals(due=due, accepted=accepted, scheduled=scheduled, paid=paid)


def _columns(totals: Totals) -> tuple[str, str, str, str]:
    return wei(totals.due), wei(totals.accepted), wei(totals.scheduled), wei(totals.paid)
