"""Bills that are still to come: what our agreements may cost at most, kept on disk.

A job accepts its providers' bills while it runs. Were the node killed before that, or a bill late, finished work
would stay unpaid; so each agreement of a job is written down, with the most that it can have come to by what we
measured, and the node accepts what comes within that, whether or not the job still is there. What a job left
standing when its node was killed is ended.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import msgspec
import structlog
import trio

from protocols.ground.money import format_amount
from protocols.ground.times import SECOND
from protocols.market.errors import MarketError
from protocols.payment.errors import PaymentError
from protocols.payment.records import Status

if TYPE_CHECKING:
    from node.parts import NodeParts
    from p2p.identity import NodeId
    from p2p.storage import Connection, Database
    from protocols.payment.records import DebitNote, Invoice

MIGRATIONS = [
    """
    CREATE TABLE requestor_bill(
        agreement_id TEXT PRIMARY KEY,
        allocation_id TEXT NOT NULL,
        most_wei TEXT NOT NULL,
        created_ns INTEGER NOT NULL
    ) STRICT
    """,
    """
    ALTER TABLE requestor_bill ADD COLUMN second_wei TEXT NOT NULL DEFAULT '0';
    ALTER TABLE requestor_bill ADD COLUMN measured_ns INTEGER NOT NULL DEFAULT 0;
    """,
]
KEPT_NS = 24 * 3600 * SECOND
"""How long a bill is waited for: as long as the allocation lives that would pay it."""
ORPHANED_NS = 300 * SECOND
"""For how long an activity may have gone on without us: a provider sends a note every two minutes, and gives up
one that is not accepted within two more (`golem.com.payment.debit-notes.accept-timeout?` of our demands)."""
_LATE_PAUSE = 5.0
"""Seconds between two looks for late bills."""


class Bill(msgspec.Struct, frozen=True):
    """An agreement whose invoice has not been accepted."""

    agreement_id: str
    allocation_id: str
    most_wei: int
    created_ns: int
    second_wei: int = 0
    """What each further second may add; nothing once its activities have ended."""
    measured_ns: int = 0
    """When `most_wei` was right."""

    def at(self, now_ns: int) -> Bill:
        """Return the bill after a time in which nobody measured."""
        unseen = max(0, min(now_ns - self.measured_ns, ORPHANED_NS))
        most = self.most_wei + self.second_wei * unseen // SECOND
        return msgspec.structs.replace(self, most_wei=most, second_wei=0, measured_ns=now_ns)


class PendingBills:
    """The bills that this node's jobs still expect."""

    def __init__(self, node: NodeParts, database: Database) -> None:
        self._node = node
        self._database = database
        self._me: NodeId = node.key.node_id
        self._log = structlog.get_logger("bills")
        self.refused: dict[str, str] = {}
        """Why a bill was not accepted, by agreement."""

    async def open(self) -> list[Bill]:
        """Make the table; return what an earlier run of the node left."""
        await self._database.migrate("requestor", MIGRATIONS)
        return await self._database.read(_all)

    async def expect(
        self, agreement_id: str, allocation_id: str, most_wei: int, *, second_wei: int = 0
    ) -> Bill:
        """Write down the most that an agreement can have come to so far, and what a further second may add."""
        now = self._node.clock.utc_ns()
        bill = Bill(agreement_id, allocation_id, most_wei, now, second_wei, now)
        await self._database.write(lambda c: _put(c, bill))
        return bill

    async def accept(self, bill: Bill) -> bool:
        """Accept what was billed, as far as it can be right; return whether the invoice is accepted now."""
        payment = self._node.payment.service
        for note in await payment.debit_notes(self._me, agreement_id=bill.agreement_id):
            if note.status is Status.RECEIVED and self._right(bill, note, note.total_due_wei):
                await payment.accept_debit_note(
                    self._me,
                    note.debit_note_id,
                    amount_wei=note.total_due_wei,
                    allocation_id=bill.allocation_id,
                )
        for invoice in await payment.invoices(self._me, agreement_id=bill.agreement_id):
            if invoice.status in (Status.ACCEPTED, Status.SETTLED):
                return True
            if invoice.status is Status.RECEIVED and self._right(bill, invoice, invoice.amount_wei):
                await payment.accept_invoice(
                    self._me,
                    invoice.invoice_id,
                    amount_wei=invoice.amount_wei,
                    allocation_id=bill.allocation_id,
                )
                return True
        return False

    async def forget(self, agreement_id: str) -> None:
        """An agreement is paid for, or nothing was done under it."""

        def delete(c: Connection) -> None:
            c.execute("DELETE FROM requestor_bill WHERE agreement_id = ?", (agreement_id,))

        await self._database.write(delete)

    async def pay_late(self, left: list[Bill]) -> None:
        """End the agreements that an earlier run left, and accept late bills; until cancelled."""
        for bill in left:
            # The node was gone for a while, the activity was not: it ends now.
            late = bill.at(self._node.clock.utc_ns())
            await self._database.write(lambda c, late=late: _put(c, late))  # type: ignore[misc]
            with contextlib.suppress(MarketError):
                reason = {"message": "the requestor's node was restarted", "golem.requestor.code": "Shutdown"}
                await self._node.market.service.terminate_agreement(self._me, bill.agreement_id, reason)
        while True:
            now = self._node.clock.utc_ns()
            for bill in await self._database.read(_all):
                try:
                    if await self.accept(bill) or bill.created_ns + KEPT_NS < now:
                        await self.forget(bill.agreement_id)
                except PaymentError as error:
                    self._log.warning("bill not accepted", agreement=bill.agreement_id, reason=str(error))
            await trio.sleep(_LATE_PAUSE)

    def _right(self, bill: Bill, document: DebitNote | Invoice, amount: int) -> bool:
        if amount <= bill.most_wei:
            return True
        reason = f"billed {format_amount(amount)} GLM, more than {format_amount(bill.most_wei)} can be right"
        if self.refused.get(bill.agreement_id) != reason:
            self.refused[bill.agreement_id] = reason
            self._log.warning("bill refused", agreement=bill.agreement_id, reason=reason)
        return False


def _put(c: Connection, bill: Bill) -> None:
    c.execute(
        "INSERT INTO requestor_bill VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
        " most_wei = excluded.most_wei, second_wei = excluded.second_wei, measured_ns = excluded.measured_ns",
        (
            bill.agreement_id,
            bill.allocation_id,
            str(bill.most_wei),
            bill.created_ns,
            str(bill.second_wei),
            bill.measured_ns,
        ),
    )


def _all(c: Connection) -> list[Bill]:
    rows = c.execute(
        "SELECT agreement_id, allocation_id, most_wei, created_ns, second_wei, measured_ns"
        " FROM requestor_bill ORDER BY created_ns"
    )
    return [
        Bill(agreement, allocation, int(most), created, int(second), measured)
        for agreement, allocation, most, created, second, measured in rows
    ]
