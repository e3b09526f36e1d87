"""One agreement, served: bills while it runs, ends it when it must end, invoices when it is over.

`run` looks at the facts (the agreement's state, the activities and their usage, the documents), does what they
call for, and sleeps until something changes or a time comes. It can be started at any point of an agreement's
life, so it is also what resumes after a crash.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import trio

from node.provider.billing import Terms
from node.provider.negotiators import EXPIRATION
from p2p.bus import BusError, ask
from p2p.identity import NodeId
from protocols.activity.messages import REPORT_SERVICE, Activities, ActivityView, ListActivities
from protocols.ground.times import SECOND
from protocols.ground.wakeup import Signal
from protocols.market.errors import MarketError
from protocols.market.messages import AgreementState, AgreementView
from protocols.payment.errors import PaymentError
from protocols.payment.records import DebitNote, Status

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    import structlog.typing

    from node.parts import NodeParts

IDLE_TIMEOUT = 90.0
"""Seconds without a live activity after which the agreement is ended (IDLE_AGREEMENT_TIMEOUT)."""
RETRY_PAUSE = 5.0


class Deal:
    """An agreement on the provider's side."""

    def __init__(
        self, node: NodeParts, view: AgreementView, log: structlog.typing.FilteringBoundLogger
    ) -> None:
        self._node = node
        self._view = view
        self._log = log
        self._signal = Signal()
        offer = msgspec.json.decode(view.offer_properties)
        demand = msgspec.json.decode(view.demand_properties)
        self._terms = Terms.of(
            offer, view.approved_ns or view.created_ns, node.config["provider.debit-note-interval"]
        )
        self._expires_ns = int(float(demand.get(EXPIRATION, 0)) * 1_000_000)
        self._one_activity = demand.get("golem.srv.caps.multi-activity") is False
        self._idle_since_ns = node.clock.utc_ns()
        self._next_note_ns = self._terms.next_note_ns(node.clock.utc_ns())
        self._last_payable_ns = self._terms.approved_ns
        self._billed: set[str] = set()
        """Activities whose last debit note is out."""

    @property
    def agreement_id(self) -> str:
        """Return the agreement's id."""
        return self._view.agreement_id

    def wake(self) -> None:
        """Look again now."""
        self._signal.notify()

    async def run(self, *, released: Callable[[str], Awaitable[None]]) -> None:
        """Serve the agreement to its end and invoice it.

        Args:
            released: called once when it holds no resources any more.
        """
        while True:
            ticket = self._signal.ticket()
            try:
                self._view = await self._node.market.service.agreement(
                    NodeId(self._view.provider_id), self.agreement_id
                )
                activities = await self._activities()
                if self._view.state is not AgreementState.APPROVED:
                    if not any(activity.alive for activity in activities):
                        break
                    pause = 1.0
                else:
                    pause = await self._look(activities)
            except (MarketError, PaymentError, BusError) as error:
                self._log.warning("agreement could not be served for now", error=str(error))
                pause = RETRY_PAUSE
            with trio.move_on_after(max(0.05, pause)):
                await ticket.wait()
        await released(self.agreement_id)
        await self._bill()

    async def _look(self, activities: Sequence[ActivityView]) -> float:
        """Do what is due on a standing agreement; return the seconds until the next thing may be."""
        now = self._node.clock.utc_ns()
        alive = [activity for activity in activities if activity.alive]
        if alive:
            self._idle_since_ns = now
        for activity in activities:
            if not activity.alive and activity.activity_id not in self._billed:
                await self._issue_note(activity, now, final=True)
                self._billed.add(activity.activity_id)
        if now >= self._next_note_ns:
            self._next_note_ns = self._terms.next_note_ns(now)
            for activity in alive:
                await self._issue_note(activity, now, final=False)
        reason = await self._reason_to_end(activities, alive, now)
        if reason is not None:
            await self._terminate(*reason)
            return 0.0
        waits = [self._next_note_ns - now, self._expires_ns - now if self._expires_ns else 3600 * SECOND]
        if not alive:
            waits.append(self._idle_since_ns + int(IDLE_TIMEOUT * SECOND) - now)
        if self._terms.accept_timeout is not None:
            waits.append(int(self._terms.accept_timeout * SECOND) // 4)
        return max(0.0, min(waits) / SECOND)

    async def _reason_to_end(
        self, activities: Sequence[ActivityView], alive: Sequence[ActivityView], now: int
    ) -> tuple[str, str] | None:
        if self._expires_ns and now >= self._expires_ns:
            return "Expired", "the agreement has reached its end"
        if not alive and now - self._idle_since_ns >= IDLE_TIMEOUT * SECOND:
            return "NoActivity", f"there was no activity for {IDLE_TIMEOUT:.0f} s"
        if self._one_activity and activities and not alive:
            return "Success", "the one activity that was asked for has ended"
        return await self._broken_promise(now)

    async def _broken_promise(self, now: int) -> tuple[str, str] | None:
        """Return why the requestor has broken its word about debit notes, if it has."""
        timeout = self._terms.accept_timeout
        if timeout is None:
            return None
        notes = await self._node.payment.service.debit_notes(
            self._view.provider_id, agreement_id=self.agreement_id
        )
        for note in notes:
            waiting = now - note.timestamp_ns
            if note.status is Status.ISSUED and waiting > timeout * SECOND:
                return "RequestorUnreachable", f"a debit note could not be delivered for {timeout:.0f} s"
            if note.status is Status.RECEIVED and waiting > timeout * SECOND and not _overtaken(note, notes):
                return "DebitNotesDeadline", f"a debit note was not accepted within {timeout:.0f} s"
            if note.status is Status.ACCEPTED and note.due_ns is not None and now > note.due_ns + 60 * SECOND:
                return "DebitNoteNotPaid", "a debit note was not paid by its due date"
        return None

    async def _issue_note(self, activity: ActivityView, now: int, *, final: bool) -> None:
        due_ns = self._terms.note_due_ns(now, self._last_payable_ns, final=final)
        price = self._price(activity)
        note = await self._node.payment.service.issue_debit_note(
            self._view.provider_id,
            activity_id=activity.activity_id,
            total_due_wei=price,
            usage=list(activity.usage),
            due_ns=due_ns,
        )
        if due_ns is not None:
            self._last_payable_ns = now
        await self._send_note(note)

    async def _send_note(self, note: DebitNote) -> None:
        try:
            await self._node.payment.service.send_debit_note(
                self._view.provider_id, note.debit_note_id, timeout=2.0
            )
        except PaymentError as error:  # delivery goes on behind; the deadline watches over it
            self._log.info("debit note not acknowledged yet", error=str(error))

    async def _terminate(self, code: str, message: str) -> None:
        reason = {"message": message, "golem.provider.code": code}
        self._log.info("ending the agreement", code=code)
        await self._node.market.service.terminate_agreement(
            NodeId(self._view.provider_id), self.agreement_id, reason
        )

    async def _bill(self) -> None:
        """Issue the one invoice; what it says follows from the activities' usage alone."""
        while True:
            try:
                if await self._try_to_bill():
                    return
            except (PaymentError, BusError, MarketError) as error:
                self._log.warning("invoice not issued yet", error=str(error))
            await trio.sleep(RETRY_PAUSE)

    async def _try_to_bill(self) -> bool:
        payment, owner = self._node.payment.service, self._view.provider_id
        if await payment.invoices(owner, agreement_id=self.agreement_id):
            return True
        activities = await self._activities()
        if not activities:
            return True
        now = self._node.clock.utc_ns()
        for activity in activities:
            if activity.activity_id not in self._billed:
                await self._issue_note(activity, now, final=True)
                self._billed.add(activity.activity_id)
        amount = sum(self._price(activity) for activity in activities)
        invoice = await payment.issue_invoice(
            owner,
            agreement_id=self.agreement_id,
            amount_wei=amount,
            activity_ids=[activity.activity_id for activity in activities],
            due_ns=self._terms.invoice_due_ns(now),
        )
        self._log.info("invoice issued", invoice=invoice.invoice_id, wei=amount)
        try:
            await payment.send_invoice(owner, invoice.invoice_id)
        except PaymentError as error:  # delivery goes on behind
            self._log.info("invoice not acknowledged yet", error=str(error))
        return True

    async def _activities(self) -> tuple[ActivityView, ...]:
        question = ListActivities(agreement_id=self.agreement_id)
        return (await ask(self._node.bus, REPORT_SERVICE, question, Activities)).activities

    def _price(self, activity: ActivityView) -> int:
        counters = len(self._terms.coefficients) - 1
        usage: list[Any] = [*activity.usage[:counters], *([0.0] * (counters - len(activity.usage)))]
        return self._terms.price(usage)


def _overtaken(note: DebitNote, notes: Sequence[DebitNote]) -> bool:
    """Return whether a later note of the same activity was accepted: that owns to this one too."""
    return any(
        other.activity_id == note.activity_id
        and other.total_due_wei >= note.total_due_wei
        and other.status in (Status.ACCEPTED, Status.SETTLED)
        for other in notes
    )
