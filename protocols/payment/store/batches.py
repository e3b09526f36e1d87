"""Batches of signed transactions: what is stored before anything is sent."""

# ruff: noqa: S608  (statements are made of this module's constants; values are bound)
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from protocols.payment.drivers.base import SignedTransaction, Transfer
from protocols.payment.store.form import first, from_json, to_json

if TYPE_CHECKING:
    from p2p.storage import Connection
    from protocols.payment.drivers.base import Receipt


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """Transactions that pay together, in order of their nonces; at most one a lane is open."""

    batch_id: int
    owner: str
    platform: str
    network: str
    sender: str
    created_ns: int


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """One signed version of a transaction; those with the same nonce replace each other."""

    transaction: SignedTransaction
    created_ns: int
    sent_ns: int | None
    succeeded: bool | None
    """None until its receipt is deep enough."""


_VERSION = (
    "tx_hash, raw, nonce, kind, sender, gas_limit, max_fee_wei, priority_fee_wei, transfers, created_ns,"
    " sent_ns, succeeded"
)


def open_batch(c: Connection, network: str, sender: str) -> Batch | None:
    """Return the lane's open batch."""
    row = first(
        c,
        "SELECT batch_id, owner, platform, network, sender, created_ns FROM payment_batch"
        " WHERE network = ? AND sender = ? AND state = 'open'",
        (network, sender),
    )
    if row is None:
        return None
    return Batch(
        batch_id=row[0], owner=row[1], platform=row[2], network=row[3], sender=row[4], created_ns=row[5]
    )


def busy_lanes(c: Connection) -> list[tuple[str, str, str, str]]:
    """List (network, sender, platform, owner) wherever transfers wait or a batch is open."""
    rows = c.execute(
        "SELECT network, sender, platform, owner FROM payment_batch WHERE state = 'open' UNION"
        " SELECT network, sender, platform, owner FROM payment_transfer WHERE batch_id IS NULL"
        " ORDER BY 1, 2, 3, 4"
    )
    return [(network, sender, platform, owner) for network, sender, platform, owner in rows]


def insert_batch(c: Connection, *, owner: str, platform: str, network: str, sender: str, now_ns: int) -> int:
    """Open a batch and return its id."""
    c.execute(
        "INSERT INTO payment_batch(owner, platform, network, sender, state, created_ns)"
        " VALUES (?, ?, ?, ?, 'open', ?)",
        (owner, platform, network, sender, now_ns),
    )
    return int(c.last_insert_rowid())


def close_batch(c: Connection, batch_id: int, state: str, now_ns: int) -> None:
    """Close a batch as `paid`, `failed` or `lost`."""
    c.execute(
        "UPDATE payment_batch SET state = ?, closed_ns = ? WHERE batch_id = ?", (state, now_ns, batch_id)
    )


def insert_version(
    c: Connection, batch_id: int, network: str, signed: SignedTransaction, now_ns: int
) -> None:
    """Store a signed transaction of a batch."""
    c.execute(
        "INSERT INTO payment_transaction(tx_hash, batch_id, network, sender, nonce, kind, raw, gas_limit,"
        " max_fee_wei, priority_fee_wei, transfers, created_ns) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            signed.tx_hash, batch_id, network, signed.sender, signed.nonce, signed.kind, signed.raw,
            signed.gas_limit, str(signed.max_fee_wei), str(signed.priority_fee_wei),
            to_json([(t.transfer_id, t.payee, str(t.amount_wei)) for t in signed.transfers]), now_ns,
        ),
    )  # fmt: skip


def versions(c: Connection, batch_id: int) -> list[Version]:
    """List all versions of a batch's transactions, by nonce and then oldest first."""
    rows = c.execute(
        f"SELECT {_VERSION} FROM payment_transaction WHERE batch_id = ? ORDER BY nonce, created_ns, tx_hash",
        (batch_id,),
    )
    return [_version(row) for row in rows]


def versions_from(c: Connection, network: str, sender: str, nonce: int) -> list[Version]:
    """List what a sender's nonces from `nonce` on were used for, by nonce and then oldest first."""
    rows = c.execute(
        f"SELECT {_VERSION} FROM payment_transaction WHERE network = ? AND sender = ? AND nonce >= ?"
        " ORDER BY nonce, created_ns, tx_hash",
        (network, sender, nonce),
    )
    return [_version(row) for row in rows]


def highest_nonce(c: Connection, network: str, sender: str) -> int | None:
    """Return the highest nonce that was ever signed for a sender."""
    row = first(
        c, "SELECT max(nonce) FROM payment_transaction WHERE network = ? AND sender = ?", (network, sender)
    )
    return row[0] if row else None


def set_sent(c: Connection, tx_hash: str, now_ns: int) -> None:
    """Note that a transaction was handed to the chain."""
    c.execute(
        "UPDATE payment_transaction SET sent_ns = ? WHERE tx_hash = ? AND sent_ns IS NULL", (now_ns, tx_hash)
    )


def set_receipt(c: Connection, receipt: Receipt) -> None:
    """Note a transaction's fate."""
    c.execute(
        "UPDATE payment_transaction SET succeeded = ?, fee_wei = ?, block_number = ? WHERE tx_hash = ?",
        (int(receipt.succeeded), str(receipt.fee_wei), receipt.block_number, receipt.tx_hash),
    )


def _version(row: Any) -> Version:
    return Version(
        transaction=SignedTransaction(
            tx_hash=row[0],
            raw=row[1],
            nonce=row[2],
            kind=row[3],
            sender=row[4],
            gas_limit=row[5],
            max_fee_wei=int(row[6]),
            priority_fee_wei=int(row[7]),
            transfers=tuple(
                Transfer(transfer_id=id_, payee=payee, amount_wei=int(amount))
                for id_, payee, amount in from_json(row[8])
            ),
        ),
        created_ns=row[9],
        sent_ns=row[10],
        succeeded=None if row[11] is None else bool(row[11]),
    )
