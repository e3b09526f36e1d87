"""Debit notes and invoices in the database."""

# ruff: noqa: S608  (statements are made of this module's constants; values are bound)
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from protocols.payment.records import Agreement, DebitNote, Invoice, Kind, Role, Status
from protocols.payment.store.form import NO_LIMIT, first, from_json, to_json, wei, where

if TYPE_CHECKING:
    from p2p.storage import Connection

_PARTIES = "g.requestor_id, g.provider_id, g.platform, g.payer_addr, g.payee_addr, g.session_id"
_NOTES = (
    "SELECT d.owner, d.role, d.debit_note_id, d.agreement_id, d.activity_id, d.previous_id, d.total_wei,"
    f" d.usage, d.due_ns, d.timestamp_ns, d.status, d.number, {_PARTIES}"
    " FROM payment_debit_note d JOIN payment_agreement g USING (owner, role, agreement_id)"
)
_INVOICES = (
    "SELECT d.owner, d.role, d.invoice_id, d.agreement_id, d.activity_ids, d.amount_wei, d.due_ns,"
    f" d.timestamp_ns, d.status, {_PARTIES}"
    " FROM payment_invoice d JOIN payment_agreement g USING (owner, role, agreement_id)"
)


def debit_note(c: Connection, owner: str, debit_note_id: str, role: Role | None = None) -> DebitNote | None:
    """Return a debit note; of two copies of one identity, the requestor's."""
    row = first(
        c,
        f"{_NOTES} WHERE d.owner = ? AND d.debit_note_id = ? AND {_of(role)} ORDER BY d.role DESC",
        (owner, debit_note_id),
    )
    return _note(row) if row else None


def invoice(c: Connection, owner: str, invoice_id: str, role: Role | None = None) -> Invoice | None:
    """Return an invoice; of two copies of one identity, the requestor's."""
    row = first(
        c,
        f"{_INVOICES} WHERE d.owner = ? AND d.invoice_id = ? AND {_of(role)} ORDER BY d.role DESC",
        (owner, invoice_id),
    )
    return _invoice(row) if row else None


def debit_notes(
    c: Connection,
    owner: str,
    *,
    after_ns: int | None = None,
    limit: int | None = None,
    agreement_id: str | None = None,
    activity_id: str | None = None,
    role: Role | None = None,
) -> list[DebitNote]:
    """List debit notes by time."""
    clause, values = where(
        ("d.owner = ?", owner),
        ("d.timestamp_ns > ?", after_ns),
        ("d.agreement_id = ?", agreement_id),
        ("d.activity_id = ?", activity_id),
    )
    rows = c.execute(
        f"{_NOTES}{clause} AND {_of(role)} ORDER BY d.timestamp_ns, d.number, d.role LIMIT ?",
        (*values, NO_LIMIT if limit is None else limit),
    )
    return [_note(row) for row in rows]


def invoices(
    c: Connection,
    owner: str,
    *,
    after_ns: int | None = None,
    limit: int | None = None,
    agreement_id: str | None = None,
    role: Role | None = None,
) -> list[Invoice]:
    """List invoices by time."""
    clause, values = where(
        ("d.owner = ?", owner), ("d.timestamp_ns > ?", after_ns), ("d.agreement_id = ?", agreement_id)
    )
    rows = c.execute(
        f"{_INVOICES}{clause} AND {_of(role)} ORDER BY d.timestamp_ns, d.invoice_id, d.role LIMIT ?",
        (*values, NO_LIMIT if limit is None else limit),
    )
    return [_invoice(row) for row in rows]


def _of(role: Role | None) -> str:
    # Both are named where both are wanted: the keys begin with owner and role.
    return "d.role IN ('R', 'P')" if role is None else f"d.role = '{role}'"


def insert_debit_note(c: Connection, note: DebitNote) -> None:
    """Store a new debit note as the activity's latest."""
    c.execute(
        "INSERT INTO payment_debit_note(owner, role, debit_note_id, agreement_id, activity_id, previous_id,"
        " number, total_wei, usage, due_ns, timestamp_ns, status)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            note.owner, note.role, note.debit_note_id, note.agreement_id, note.activity_id, note.previous_id,
            count_debit_notes(c, note.owner, note.role, note.activity_id), wei(note.total_due_wei),
            None if note.usage is None else to_json(note.usage), note.due_ns, note.timestamp_ns,
            note.status.value,
        ),
    )  # fmt: skip


def insert_invoice(c: Connection, invoice: Invoice) -> None:
    """Store a new invoice."""
    c.execute(
        "INSERT INTO payment_invoice(owner, role, invoice_id, agreement_id, activity_ids, amount_wei, due_ns,"
        " timestamp_ns, status) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            invoice.owner, invoice.role, invoice.invoice_id, invoice.agreement_id,
            to_json(invoice.activity_ids), wei(invoice.amount_wei), invoice.due_ns, invoice.timestamp_ns,
            invoice.status.value,
        ),
    )  # fmt: skip


def set_status(c: Connection, owner: str, role: Role, kind: Kind, document_id: str, status: Status) -> None:
    """Store a document's new state."""
    c.execute(
        f"UPDATE payment_{kind} SET status = ? WHERE owner = ? AND role = ? AND {kind}_id = ?",
        (status.value, owner, role, document_id),
    )


def count_debit_notes(c: Connection, owner: str, role: Role, activity_id: str) -> int:
    """Return how many notes an activity has."""
    row = first(
        c,
        "SELECT count(*) FROM payment_debit_note WHERE owner = ? AND role = ? AND activity_id = ?",
        (owner, role, activity_id),
    )
    return int(row[0])


def last_debit_note_id(c: Connection, owner: str, role: Role, activity_id: str) -> str | None:
    """Return the activity's latest note."""
    row = first(
        c,
        "SELECT debit_note_id FROM payment_debit_note WHERE owner = ? AND role = ? AND activity_id = ?"
        " ORDER BY number DESC LIMIT 1",
        (owner, role, activity_id),
    )
    return row[0] if row else None


def notes_up_to(
    c: Connection, owner: str, role: Role, activity_id: str, total_wei: int, statuses: frozenset[Status]
) -> list[DebitNote]:
    """List an activity's notes of at most `total_wei` in given states."""
    rows = c.execute(
        f"{_NOTES} WHERE d.owner = ? AND d.role = ? AND d.activity_id = ? AND d.total_wei <= ?"
        " AND d.status IN (SELECT value FROM json_each(?)) ORDER BY d.number",
        (owner, role, activity_id, wei(total_wei), _names(statuses)),
    )
    return [_note(row) for row in rows]


def invoices_up_to(
    c: Connection, owner: str, role: Role, agreement_id: str, amount_wei: int, statuses: frozenset[Status]
) -> list[Invoice]:
    """List an agreement's invoices of at most `amount_wei` in given states."""
    rows = c.execute(
        f"{_INVOICES} WHERE d.owner = ? AND d.role = ? AND d.agreement_id = ? AND d.amount_wei <= ?"
        " AND d.status IN (SELECT value FROM json_each(?)) ORDER BY d.timestamp_ns",
        (owner, role, agreement_id, wei(amount_wei), _names(statuses)),
    )
    return [_invoice(row) for row in rows]


def providers(c: Connection) -> list[str]:
    """List our identities that have billed anyone."""
    rows = c.execute("SELECT DISTINCT owner FROM payment_agreement WHERE role = 'P' ORDER BY owner")
    return [row[0] for row in rows]


def open_peers(c: Connection, owner: str) -> list[str]:
    """List the requestors that owe this identity an answer or money."""
    rows = c.execute(
        "SELECT DISTINCT g.requestor_id FROM payment_agreement g WHERE g.owner = ? AND g.role = 'P' AND ("
        " EXISTS (SELECT 1 FROM payment_debit_note d WHERE d.owner = g.owner AND d.role = g.role"
        "  AND d.agreement_id = g.agreement_id AND d.status IN ('ISSUED', 'ACCEPTED'))"
        " OR EXISTS (SELECT 1 FROM payment_invoice d WHERE d.owner = g.owner AND d.role = g.role"
        "  AND d.agreement_id = g.agreement_id AND d.status IN ('ISSUED', 'RECEIVED', 'ACCEPTED')))"
        " ORDER BY g.requestor_id",
        (owner,),
    )
    return [row[0] for row in rows]


def answered(
    c: Connection, owner: str, provider_id: str, limit: int
) -> tuple[list[DebitNote], list[Invoice]]:
    """List the requestor copies of a provider's documents that were answered and are not settled, newest first."""
    notes = c.execute(
        f"{_NOTES} WHERE d.owner = ? AND d.role = 'R' AND g.provider_id = ? AND d.status = 'ACCEPTED'"
        " ORDER BY d.timestamp_ns DESC LIMIT ?",
        (owner, provider_id, limit),
    )
    found = c.execute(
        f"{_INVOICES} WHERE d.owner = ? AND d.role = 'R' AND g.provider_id = ?"
        " AND d.status IN ('ACCEPTED', 'REJECTED') ORDER BY d.timestamp_ns DESC LIMIT ?",
        (owner, provider_id, limit),
    )
    return [_note(row) for row in notes], [_invoice(row) for row in found]


def awaiting_payment(c: Connection, platform: str, payer_addr: str, limit: int) -> list[DebitNote | Invoice]:
    """List a wallet's accepted invoices and payable notes that are not settled, the oldest first."""
    where = " WHERE d.role = 'R' AND d.status = 'ACCEPTED' AND g.platform = ? AND g.payer_addr = ?"
    order = " ORDER BY d.timestamp_ns LIMIT ?"
    values = (platform, payer_addr, limit)
    found: list[DebitNote | Invoice] = [_invoice(row) for row in c.execute(_INVOICES + where + order, values)]
    notes = c.execute(f"{_NOTES}{where} AND d.due_ns IS NOT NULL{order}", values)
    found += [_note(row) for row in notes]
    return found


def owned_invoice(c: Connection, owner: str, agreement_id: str, owned: frozenset[Status]) -> str | None:
    """Return the requestor's latest accepted invoice of an agreement."""
    row = first(
        c,
        "SELECT invoice_id FROM payment_invoice WHERE owner = ? AND role = 'R' AND agreement_id = ?"
        " AND status IN (SELECT value FROM json_each(?)) ORDER BY timestamp_ns DESC LIMIT 1",
        (owner, agreement_id, _names(owned)),
    )
    return row[0] if row else None


def owned_note(c: Connection, owner: str, activity_id: str, owned: frozenset[Status]) -> str | None:
    """Return the requestor's latest accepted note of an activity."""
    row = first(
        c,
        "SELECT debit_note_id FROM payment_debit_note WHERE owner = ? AND role = 'R' AND activity_id = ?"
        " AND status IN (SELECT value FROM json_each(?)) ORDER BY number DESC LIMIT 1",
        (owner, activity_id, _names(owned)),
    )
    return row[0] if row else None


def _names(statuses: frozenset[Status]) -> str:
    return to_json([status.value for status in statuses])


def _note(row: Any) -> DebitNote:
    owner, role, id_, agreement_id, activity_id, previous, total, usage, due, timestamp, status = row[:11]
    number, requestor_id, provider_id, platform, payer_addr, payee_addr, session_id = row[11:]
    return DebitNote(
        debit_note_id=id_,
        owner=owner,
        role=role,
        issuer_id=provider_id,
        recipient_id=requestor_id,
        payee_addr=payee_addr,
        payer_addr=payer_addr,
        platform=platform,
        agreement_id=agreement_id,
        activity_id=activity_id,
        total_due_wei=int(total),
        timestamp_ns=timestamp,
        status=Status(status),
        number=number,
        previous_id=previous,
        usage=None if usage is None else from_json(usage),
        due_ns=due,
        session_id=session_id,
    )


def _invoice(row: Any) -> Invoice:
    owner, role, id_, agreement_id, activity_ids, amount, due, timestamp, status = row[:9]
    requestor_id, provider_id, platform, payer_addr, payee_addr, session_id = row[9:]
    return Invoice(
        invoice_id=id_,
        owner=owner,
        role=role,
        issuer_id=provider_id,
        recipient_id=requestor_id,
        payee_addr=payee_addr,
        payer_addr=payer_addr,
        platform=platform,
        agreement_id=agreement_id,
        activity_ids=tuple(from_json(activity_ids)),
        amount_wei=int(amount),
        timestamp_ns=timestamp,
        due_ns=due,
        status=Status(status),
        session_id=session_id,
    )


def new_debit_note(owner: str, role: Role, facts: Agreement, **fields: Any) -> DebitNote:
    """Return a debit note under an agreement, its parties filled in."""
    return DebitNote(owner=owner, role=role, **_parties(facts), **fields)


def new_invoice(owner: str, role: Role, facts: Agreement, **fields: Any) -> Invoice:
    """Return an invoice under an agreement, its parties filled in."""
    return Invoice(owner=owner, role=role, **_parties(facts), **fields)


def _parties(facts: Agreement) -> dict[str, Any]:
    return {
        "issuer_id": facts.provider_id,
        "recipient_id": facts.requestor_id,
        "payee_addr": facts.payee_addr,
        "payer_addr": facts.payer_addr,
        "platform": facts.platform,
        "agreement_id": facts.agreement_id,
        "session_id": facts.session_id,
    }
