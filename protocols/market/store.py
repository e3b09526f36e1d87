"""The market's tables: each function is part of one transaction on the connection that it is given.

The services put several together (state, event, outbox) in one `database.write`, so that what was promised and
the promise are on disk together or not at all.
"""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Collection
from typing import TYPE_CHECKING

import msgspec

from p2p import codec
from p2p.identity import NodeId
from protocols.ground.times import MICROSECOND
from protocols.market.core.agreements import FINAL, Agreement
from protocols.market.events import AgreementEvent
from protocols.market.messages import AgreementEnd, AgreementState, AgreementTerms, Role

if TYPE_CHECKING:
    from collections.abc import Iterable

    from p2p.storage import Connection

_COLUMNS = (
    "agreement_id, role, state, app_session_id, terms, proposed_signature, approved_ns, approved_signature,"
    " committed_signature, ended_by, ended_ns, reason, end_signature, confirmed_ns, received"
)
_KINDS = {
    AgreementState.APPROVED: "Approved",
    AgreementState.REJECTED: "Rejected",
    AgreementState.CANCELLED: "Cancelled",
    AgreementState.TERMINATED: "Terminated",
}


def migrations() -> list[str]:
    """Return the statements of `schema.sql`, one migration each."""
    text = importlib.resources.files("protocols.market").joinpath("schema.sql").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("--")]
    return [statement.strip() for statement in "\n".join(lines).split(";") if statement.strip()]


# --- agreements ----------------------------------------------------------------------------------------------


def load(c: Connection, agreement_id: str, role: Role) -> Agreement | None:
    """Return one agreement by its id and our side."""
    row = c.execute(
        f"SELECT {_COLUMNS} FROM market_agreement WHERE agreement_id = ? AND role = ?",  # noqa: S608
        (agreement_id, role.value),
    ).fetchone()
    return _agreement(row) if row else None


def insert(c: Connection, agreement: Agreement) -> None:
    """Add a new agreement."""
    terms = agreement.terms
    c.execute(
        "INSERT INTO market_agreement(agreement_id, role, owner, peer, proposal_id, state, created_ns,"
        " valid_to_ns, app_session_id, terms, received) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0)",
        (
            agreement.agreement_id,
            agreement.role.value,
            agreement.owner,
            agreement.peer,
            terms.proposal_id,
            agreement.state.value,
            terms.created_ns,
            terms.valid_to_ns,
            agreement.app_session_id,
            codec.encode(terms),
        ),
    )
    update(c, agreement)


def update(c: Connection, agreement: Agreement) -> None:
    """Write the changing part of an agreement."""
    end = agreement.end
    c.execute(
        "UPDATE market_agreement SET state = ?, app_session_id = ?, proposed_signature = ?, approved_ns = ?,"
        " approved_signature = ?, committed_signature = ?, ended_by = ?, ended_ns = ?, reason = ?,"
        " end_signature = ?, confirmed_ns = ?, received = ? WHERE agreement_id = ? AND role = ?",
        (
            agreement.state.value,
            agreement.app_session_id,
            agreement.proposed_signature,
            agreement.approved_ns,
            agreement.approved_signature,
            agreement.committed_signature,
            end.by.value if end else None,
            end.at_ns if end else None,
            end.reason if end else None,
            end.signature if end else None,
            agreement.confirmed_ns,
            int(agreement.received),
            agreement.agreement_id,
            agreement.role.value,
        ),
    )


class Filter(msgspec.Struct, frozen=True):
    """Which agreements are wanted; None and empty mean all."""

    owner: str | None = None
    role: Role | None = None
    states: Collection[AgreementState] = ()
    created_after_ns: int | None = None
    created_before_ns: int | None = None
    app_session_id: str | None = None
    peer: str | None = None
    after: str = ""
    """Only those behind the agreement with this id."""
    limit: int = -1


def select(c: Connection, wanted: Filter) -> list[Agreement]:
    """Return agreements, oldest first."""
    conditions: list[tuple[str, object]] = []
    for condition, value in (
        ("owner = ?", wanted.owner),
        ("role = ?", wanted.role.value if wanted.role else None),
        ("created_ns > ?", wanted.created_after_ns),
        ("created_ns < ?", wanted.created_before_ns),
        ("app_session_id = ?", wanted.app_session_id),
        ("peer = ?", wanted.peer),
        (
            "(created_ns, agreement_id) > (SELECT created_ns, agreement_id FROM market_agreement"
            " WHERE agreement_id = ? LIMIT 1)",
            wanted.after or None,
        ),
        (
            "state IN (SELECT value FROM json_each(?))",
            json.dumps([state.value for state in wanted.states]) if wanted.states else None,
        ),
    ):
        if value is not None:
            conditions.append((condition, value))
    where = " AND ".join(condition for condition, _ in conditions) or "1"
    rows = c.execute(
        f"SELECT {_COLUMNS} FROM market_agreement WHERE {where}"  # noqa: S608 - fixed texts only
        " ORDER BY created_ns, agreement_id, role LIMIT ?",
        (*(value for _, value in conditions), wanted.limit),
    )
    return [_agreement(row) for row in rows]


def next_expiry(c: Connection, states: Iterable[AgreementState]) -> int | None:
    """Return the earliest end of validity of the agreements in these states."""
    row = c.execute(
        "SELECT min(valid_to_ns) FROM market_agreement WHERE state IN (SELECT value FROM json_each(?))",
        (json.dumps([state.value for state in states]),),
    ).fetchone()
    return None if row is None else row[0]


def ending_before(c: Connection, state: AgreementState, before_ns: int, limit: int) -> list[Agreement]:
    """Return agreements in a state whose validity ended before."""
    rows = c.execute(
        f"SELECT {_COLUMNS} FROM market_agreement WHERE state = ? AND valid_to_ns < ?"  # noqa: S608
        " ORDER BY valid_to_ns LIMIT ?",
        (state.value, before_ns, limit),
    )
    return [_agreement(row) for row in rows]


def unreceived(c: Connection, confirmed_before_ns: int) -> list[Agreement]:
    """Return the confirmed agreements that no provider's node has taken since before then."""
    rows = c.execute(
        f"SELECT {_COLUMNS} FROM market_agreement WHERE state = 'Pending' AND role = 'Requestor'"  # noqa: S608
        " AND received = 0 AND confirmed_ns <= ? ORDER BY confirmed_ns",
        (confirmed_before_ns,),
    )
    return [_agreement(row) for row in rows]


def next_unreceived(c: Connection) -> int | None:
    """Return when the oldest agreement was confirmed that no provider's node has taken."""
    row = c.execute(
        "SELECT min(confirmed_ns) FROM market_agreement WHERE state = 'Pending' AND role = 'Requestor'"
        " AND received = 0"
    ).fetchone()
    return None if row is None else row[0]


def forget(c: Connection, valid_before_ns: int) -> int:
    """Delete ended agreements, and their events, whose validity ended before; return how many."""
    c.execute(
        "DELETE FROM market_agreement WHERE valid_to_ns < ? AND state IN (SELECT value FROM json_each(?))",
        (valid_before_ns, json.dumps(sorted(state.value for state in FINAL))),
    )
    return int(c.changes())


# --- agreement events ----------------------------------------------------------------------------------------


def log_event(c: Connection, agreement: Agreement, now_ns: int) -> None:
    """Log that an agreement came into its state, if clients are told of that state."""
    kind = _KINDS.get(agreement.state)
    if kind is None:
        return
    row = c.execute("SELECT max(at_ns) FROM market_agreement_event").fetchone()
    last = row[0] if row and row[0] else 0
    # Clients resume after the last time they saw, in microseconds: two events must not share one.
    at_ns = max(now_ns // MICROSECOND * MICROSECOND, last + MICROSECOND)
    end = agreement.end
    c.execute(
        "INSERT INTO market_agreement_event VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            at_ns,
            agreement.owner,
            agreement.agreement_id,
            agreement.role.value,
            kind,
            end.by.value if end else None,
            end.reason if end else None,
            end.signature.hex() if end else "",
        ),
    )


def events(
    c: Connection, owner: str, after_ns: int, app_session_id: str | None, limit: int
) -> list[AgreementEvent]:
    """Return what happened to an identity's agreements after a time, oldest first."""
    rows = c.execute(
        "SELECT e.at_ns, e.agreement_id, e.role, e.kind, a.app_session_id, e.ended_by, e.reason, e.signature"
        " FROM market_agreement_event e JOIN market_agreement a USING (agreement_id, role)"
        " WHERE e.at_ns > ? AND e.owner = ? AND (? IS NULL OR a.app_session_id = ?) ORDER BY e.at_ns LIMIT ?",
        (after_ns, owner, app_session_id, app_session_id, limit),
    )
    return [_event(row) for row in rows]


def termination(c: Connection, agreement_id: str, role: Role) -> AgreementEvent | None:
    """Return the event of an agreement's termination."""
    row = c.execute(
        "SELECT e.at_ns, e.agreement_id, e.role, e.kind, a.app_session_id, e.ended_by, e.reason, e.signature"
        " FROM market_agreement_event e JOIN market_agreement a USING (agreement_id, role)"
        " WHERE e.agreement_id = ? AND e.role = ? AND e.kind = 'Terminated' ORDER BY e.at_ns DESC LIMIT 1",
        (agreement_id, role.value),
    ).fetchone()
    return _event(row) if row else None


# --- our own offers ------------------------------------------------------------------------------------------


class OwnOffer(msgspec.Struct, frozen=True):
    """What a slot of ours was last used for."""

    owner: NodeId
    slot: int
    incarnation: int
    seq: int
    created_ns: int
    issued_ns: int
    expires_ns: int
    """The latest end of any lease that was issued for it."""
    withdrawn: bool


def own_offers(c: Connection) -> list[OwnOffer]:
    """Return all slots that were ever used."""
    rows = c.execute(
        "SELECT owner, slot, incarnation, seq, created_ns, issued_ns, expires_ns, withdrawn"
        " FROM market_own_offer ORDER BY owner, slot"
    )
    names = OwnOffer.__struct_fields__
    return [msgspec.convert(dict(zip(names, row, strict=True)), OwnOffer, strict=False) for row in rows]


def put_own_offer(c: Connection, offer: OwnOffer) -> None:
    """Remember the last use of a slot; before the lease is published, so that no number is used twice."""
    c.execute(
        "INSERT INTO market_own_offer VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
        " incarnation = excluded.incarnation, seq = excluded.seq, created_ns = excluded.created_ns,"
        " issued_ns = excluded.issued_ns, expires_ns = excluded.expires_ns, withdrawn = excluded.withdrawn",
        tuple(msgspec.structs.astuple(offer)),
    )


def _agreement(row: tuple[object, ...]) -> Agreement:
    agreement_id, role, state, session, terms, proposed, approved_ns, approved, committed = row[:9]
    ended_by, ended_ns, reason, end_signature, confirmed_ns, received = row[9:]
    end = None
    if ended_by is not None:
        end = msgspec.convert(
            {"by": ended_by, "at_ns": ended_ns, "reason": reason, "signature": end_signature}, AgreementEnd
        )
    return Agreement(
        agreement_id=str(agreement_id),
        role=Role(role),
        terms=codec.decode(_blob(terms), AgreementTerms),
        state=AgreementState(state),
        app_session_id=None if session is None else str(session),
        proposed_signature=None if proposed is None else _blob(proposed),
        approved_ns=_number(approved_ns),
        approved_signature=None if approved is None else _blob(approved),
        committed_signature=None if committed is None else _blob(committed),
        end=end,
        confirmed_ns=_number(confirmed_ns),
        received=bool(received),
    )


def _event(row: tuple[object, ...]) -> AgreementEvent:
    names = ("at_ns", "agreement_id", "role", "kind", "app_session_id", "by", "reason", "signature")
    return msgspec.convert(dict(zip(names, row, strict=True)), AgreementEvent)


def _blob(value: object) -> bytes:
    assert isinstance(value, bytes)
    return value


def _number(value: object) -> int | None:
    assert value is None or isinstance(value, int)
    return value
