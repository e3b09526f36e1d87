"""Payments made and received, and what they were for."""

# ruff: noqa: S608  (statements are made of this module's constants; values are bound)
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from protocols.payment.records import Payment, PaymentState, Share
from protocols.payment.store.form import NO_LIMIT, first, wei, where

if TYPE_CHECKING:
    from p2p.storage import Connection

_MILLISECOND = 1_000_000
_COLUMNS = (
    "p.owner, p.role, p.payment_id, p.peer, p.payer_id, p.payee_id, p.payer_addr, p.payee_addr, p.platform,"
    " p.amount_wei, p.tx_hash, p.state, p.signed_bytes, p.signature, p.timestamp_ns"
)
_PAYMENT = "p.role, p.payment_id, p.peer"
_OF_SHARE = "s.role, s.payment_id, s.peer FROM payment_share s"


class Watched(msgspec.Struct, frozen=True):
    """A received payment whose transaction is looked at again."""

    payment: Payment
    confirmed_ns: int | None


def next_timestamp(c: Connection, owner: str, now_ns: int) -> int:
    """Return a time for a new payment: now, or a millisecond after the identity's last."""
    last = first(c, "SELECT max(timestamp_ns) FROM payment_payment WHERE owner = ?", (owner,))[0]
    now = now_ns - now_ns % _MILLISECOND
    return now if last is None else max(now, last + _MILLISECOND)


def insert(c: Connection, payment: Payment, *, confirmed_ns: int | None, check_ns: int | None) -> None:
    """Store a new payment with its shares."""
    c.execute(
        "INSERT INTO payment_payment(owner, role, payment_id, peer, payer_id, payee_id, payer_addr, payee_addr,"
        " platform, amount_wei, tx_hash, state, signed_bytes, signature, timestamp_ns, confirmed_ns, check_ns)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            payment.owner, payment.role, payment.payment_id, payment.peer, payment.payer_id,
            payment.payee_id, payment.payer_addr, payment.payee_addr, payment.platform,
            wei(payment.amount_wei), payment.tx_hash, payment.state.value, payment.signed_bytes,
            payment.signature, payment.timestamp_ns, confirmed_ns, check_ns,
        ),
    )  # fmt: skip
    for share in payment.shares:
        c.execute(
            "INSERT INTO payment_share VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                payment.owner, payment.role, payment.payment_id, payment.peer, share.agreement_id,
                share.activity_id or "", share.allocation_id or "", wei(share.amount_wei),
            ),
        )  # fmt: skip


def payment(c: Connection, owner: str, payment_id: str) -> Payment | None:
    """Return a payment; of several with one id (peers that share a wallet) the first by peer."""
    row = first(
        c,
        f"SELECT {_COLUMNS} FROM payment_payment p WHERE p.owner = ? AND p.role IN ('R', 'P')"
        " AND p.payment_id = ? ORDER BY p.role DESC, p.peer",
        (owner, payment_id),
    )
    return _payment(c, row) if row else None


def received(c: Connection, owner: str, payment_id: str, payer: str) -> Payment | None:
    """Return a payment that we had from a payer."""
    row = first(
        c,
        f"SELECT {_COLUMNS} FROM payment_payment p"
        " WHERE p.owner = ? AND p.role = 'P' AND p.payment_id = ? AND p.peer = ?",
        (owner, payment_id, payer),
    )
    return _payment(c, row) if row else None


def listing(
    c: Connection,
    owner: str,
    *,
    after_ns: int | None = None,
    limit: int | None = None,
    session_id: str | None = None,
    network: str | None = None,
    driver: str | None = None,
    agreement_id: str | None = None,
    pending: bool = False,
) -> list[Payment]:
    """List payments by time; filters by the parts of the platform's name."""
    clause, values = where(
        ("p.owner = ?", owner),
        ("p.timestamp_ns > ?", after_ns),
        ("p.state <> ?", None if pending else PaymentState.SEEN.value),
        ("p.platform LIKE '%-' || ? || '-%'", network),
        ("p.platform LIKE ? || '-%'", driver),
        (
            f"({_PAYMENT}) IN (SELECT {_OF_SHARE} WHERE s.agreement_id = ? AND s.owner = p.owner)",
            agreement_id,
        ),
        (
            f"({_PAYMENT}) IN (SELECT {_OF_SHARE} JOIN payment_agreement g USING (owner, role, agreement_id)"
            " WHERE g.session_id = ? AND s.owner = p.owner)",
            session_id,
        ),
    )
    rows = c.execute(
        f"SELECT {_COLUMNS} FROM payment_payment p{clause} ORDER BY p.timestamp_ns LIMIT ?",
        (*values, NO_LIMIT if limit is None else limit),
    )
    return [_payment(c, row) for row in rows]


def made_to(c: Connection, owner: str, peer: str, limit: int) -> list[Payment]:
    """List the newest payments that we made to a peer."""
    rows = c.execute(
        f"SELECT {_COLUMNS} FROM payment_payment p WHERE p.owner = ? AND p.role = 'R' AND p.peer = ?"
        " ORDER BY p.timestamp_ns DESC LIMIT ?",
        (owner, peer, limit),
    )
    return [_payment(c, row) for row in rows]


def claims(c: Connection, platform: str, tx_hash: str, payer_addr: str, payee_addr: str) -> list[int]:
    """Return the amounts that received payments claim of what a transaction moved between two addresses."""
    rows = c.execute(
        "SELECT amount_wei FROM payment_payment WHERE role = 'P' AND platform = ? AND tx_hash = ?"
        " AND payer_addr = ? AND payee_addr = ?",
        (platform, tx_hash, payer_addr, payee_addr),
    )
    return [int(row[0]) for row in rows]


def due_checks(c: Connection, now_ns: int, limit: int) -> list[Watched]:
    """List received payments whose transaction must be looked at now."""
    rows: list[Any] = c.execute(
        f"SELECT {_COLUMNS}, p.confirmed_ns FROM payment_payment p WHERE p.check_ns <= ? ORDER BY p.check_ns"
        " LIMIT ?",
        (now_ns, limit),
    ).fetchall()
    return [Watched(_payment(c, row[:-1]), row[-1]) for row in rows]


def next_check(c: Connection) -> int | None:
    """Return when the next received payment must be looked at."""
    row = first(c, "SELECT min(check_ns) FROM payment_payment WHERE check_ns IS NOT NULL")
    return row[0] if row else None


def count_seen(c: Connection, peer: str) -> int:
    """Return how many payments of a peer wait for their depth."""
    row = first(
        c, "SELECT count(*) FROM payment_payment WHERE role = 'P' AND peer = ? AND state = 'seen'", (peer,)
    )
    return int(row[0])


def set_state(
    c: Connection,
    payment: Payment,
    state: PaymentState,
    *,
    timestamp_ns: int,
    confirmed_ns: int | None,
    check_ns: int | None,
) -> None:
    """Store how sure a payment is, since when it counts, and when to look again."""
    c.execute(
        "UPDATE payment_payment SET state = ?, timestamp_ns = ?, confirmed_ns = ?, check_ns = ?"
        " WHERE owner = ? AND role = ? AND payment_id = ? AND peer = ?",
        (
            state.value, timestamp_ns, confirmed_ns, check_ns, payment.owner, payment.role,
            payment.payment_id, payment.peer,
        ),
    )  # fmt: skip


def delete(c: Connection, payment: Payment) -> None:
    """Forget a payment whose transaction vanished for good."""
    key = (payment.owner, payment.role, payment.payment_id, payment.peer)
    where = "owner = ? AND role = ? AND payment_id = ? AND peer = ?"
    c.execute(f"DELETE FROM payment_share WHERE {where}", key)
    c.execute(f"DELETE FROM payment_payment WHERE {where}", key)


def _payment(c: Connection, row: Any) -> Payment:
    owner, role, payment_id, peer = row[:4]
    shares = c.execute(
        "SELECT agreement_id, activity_id, allocation_id, amount_wei FROM payment_share"
        " WHERE owner = ? AND role = ? AND payment_id = ? AND peer = ?"
        " ORDER BY agreement_id, activity_id, allocation_id",
        (owner, role, payment_id, peer),
    )
    return Payment(
        owner=owner,
        role=role,
        payment_id=payment_id,
        peer=peer,
        payer_id=row[4],
        payee_id=row[5],
        payer_addr=row[6],
        payee_addr=row[7],
        platform=row[8],
        amount_wei=int(row[9]),
        tx_hash=row[10],
        state=PaymentState(row[11]),
        signed_bytes=row[12],
        signature=row[13],
        timestamp_ns=row[14],
        shares=tuple(
            Share(
                agreement_id=agreement_id,
                activity_id=activity_id or None,
                allocation_id=allocation_id or None,
                amount_wei=int(amount),
            )
            for agreement_id, activity_id, allocation_id, amount in shares
        ),
    )
