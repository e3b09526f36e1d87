"""The log of what happened to documents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from protocols.payment.records import DocumentEvent, Kind, Rejection, Role, Trouble
from protocols.payment.store.form import first, to_json

if TYPE_CHECKING:
    from collections.abc import Collection

    from p2p.storage import Connection

_MICROSECOND = 1_000


def append(
    c: Connection,
    owner: str,
    role: Role,
    kind: Kind,
    document_id: str,
    event: str,
    *,
    session_id: str | None,
    now_ns: int,
    detail: Rejection | Trouble | None = None,
) -> None:
    """Add an event, one microsecond after the identity's last at the earliest."""
    last = first(c, "SELECT max(time_ns) FROM payment_event WHERE owner = ?", (owner,))[0]
    time_ns = now_ns - now_ns % _MICROSECOND
    if last is not None:
        time_ns = max(time_ns, last + _MICROSECOND)
    c.execute(
        "INSERT INTO payment_event(owner, role, kind, document_id, event, session_id, detail, time_ns)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            owner, role, kind, document_id, event, session_id,
            None if detail is None else to_json(detail), time_ns,
        ),
    )  # fmt: skip


def listing(
    c: Connection,
    owner: str,
    kind: Kind,
    *,
    after_ns: int | None,
    limit: int | None,
    session_id: str | None,
    requestor_events: Collection[str],
    provider_events: Collection[str],
) -> list[DocumentEvent]:
    """List events later than `after_ns` that the caller wants to see, in their order."""
    rows = c.execute(
        "SELECT serial, role, document_id, event, time_ns, detail FROM payment_event"
        " WHERE owner = ? AND kind = ? AND time_ns > ? AND (? IS NULL OR session_id = ?)"
        " AND ((role = 'R' AND event IN (SELECT value FROM json_each(?)))"
        "   OR (role = 'P' AND event IN (SELECT value FROM json_each(?))))"
        " ORDER BY time_ns LIMIT ?",
        (
            owner, kind, -1 if after_ns is None else after_ns, session_id, session_id,
            to_json(sorted(requestor_events)), to_json(sorted(provider_events)),
            -1 if limit is None else limit,
        ),
    )  # fmt: skip
    return [_event(kind, row) for row in rows]


def last_rejection(c: Connection, owner: str, role: Role, document_id: str) -> Rejection | None:
    """Return why a document was rejected last."""
    row = first(
        c,
        "SELECT detail FROM payment_event WHERE owner = ? AND role = ? AND document_id = ?"
        " AND event = 'REJECTED' ORDER BY serial DESC LIMIT 1",
        (owner, role, document_id),
    )
    return msgspec.json.decode(row[0], type=Rejection) if row else None


def last_trouble(c: Connection, owner: str, role: Role, document_id: str) -> str | None:
    """Return the last of a document's PAYMENT_EVENT and PAYMENT_OK."""
    row = first(
        c,
        "SELECT event FROM payment_event WHERE owner = ? AND role = ? AND document_id = ?"
        " AND event IN ('PAYMENT_EVENT', 'PAYMENT_OK') ORDER BY serial DESC LIMIT 1",
        (owner, role, document_id),
    )
    return row[0] if row else None


def _event(kind: Kind, row: Any) -> DocumentEvent:
    serial, role, document_id, event, time_ns, detail = row
    return DocumentEvent(
        serial=serial,
        kind=kind,
        role=role,
        document_id=document_id,
        event=event,
        time_ns=time_ns,
        rejection=msgspec.json.decode(detail, type=Rejection) if event == "REJECTED" and detail else None,
        trouble=msgspec.json.decode(detail, type=Trouble) if event == "PAYMENT_EVENT" and detail else None,
    )
