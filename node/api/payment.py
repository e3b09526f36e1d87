"""REST, payment family: `/payment-api/v1`.

Statuses and bodies are those that existing Golem clients know (REST reference §2.4), with two additions: the
RFC 7807 documents of allocations carry a `message` too, because clients read it, and the filters of `GET
/payments` work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from node.api import payment_json as shape
from node.api.payment_allocations import AllocationHandlers
from node.api.payment_edge import (
    PREFIX,
    optional_seconds,
    optional_text,
    optional_time,
    read_count,
    read_object,
    read_timeout,
    required_amount,
    required_text,
    wanted_events,
    worded,
)
from node.api.web import ApiRequest, Routes, answer, error
from protocols.payment.api import ACK_TIMEOUT, POLL_TIMEOUT, PROVIDER_EVENTS, REQUESTOR_EVENTS
from protocols.payment.errors import NotFound
from protocols.payment.networks import UnknownPlatform, parse_platform
from protocols.payment.records import Rejection

if TYPE_CHECKING:
    from starlette.responses import Response

    from node.api.web import Handler
    from protocols.payment.api import PaymentService
    from protocols.payment.handler import PaymentProtocol
    from protocols.payment.records import Kind, LedgerRow

_MAX_PLATFORM_CHARS: Final = 100


def routes(payment: PaymentProtocol) -> Routes:
    """Return the family's table."""
    table = Routes("payment", PREFIX)
    money, documents, ledger = AllocationHandlers(payment), _Documents(payment), _Ledger(payment)
    table.add("GET", "/requestorAccounts", money.requestor_accounts)
    table.add("GET", "/providerAccounts", money.provider_accounts)
    table.add("POST", "/allocations", money.create)
    table.add("GET", "/allocations", money.list)
    table.add("GET", "/allocations/{id}", money.get)
    table.add("PUT", "/allocations/{id}", money.amend)
    table.add("DELETE", "/allocations/{id}", money.release)
    table.add("GET", "/allocations/{id}/expenditures", money.expenditures)
    table.add("GET", "/allocations/{id}/orders", money.orders)
    table.add("GET", "/demandDecorations", money.decorations)
    table.add("POST", "/debitNotes", documents.issue_note)
    table.add("GET", "/debitNotes", documents.notes)
    table.add("GET", "/debitNotes/{id}", documents.note)
    table.add("POST", "/debitNotes/{id}/send", documents.send_note)
    table.add("POST", "/debitNotes/{id}/accept", documents.accept_note)
    table.add("POST", "/debitNotes/{id}/reject", _not_implemented)
    table.add("POST", "/debitNotes/{id}/cancel", _not_implemented)
    table.add("GET", "/debitNotes/{id}/payments", _not_implemented)
    table.add("POST", "/invoices", documents.issue_invoice)
    table.add("GET", "/invoices", documents.invoices)
    table.add("GET", "/invoices/{id}", documents.invoice)
    table.add("POST", "/invoices/{id}/send", documents.send_invoice)
    table.add("POST", "/invoices/{id}/accept", documents.accept_invoice)
    table.add("POST", "/invoices/{id}/cancel", documents.cancel_invoice)
    table.add("POST", "/invoices/{id}/reject", documents.reject_invoice)
    table.add("GET", "/invoices/{id}/payments", documents.invoice_payments)
    table.add("GET", "/debitNoteEvents", documents.events("debit_note"))
    table.add("GET", "/invoiceEvents", documents.events("invoice"))
    table.add("GET", "/payments", ledger.payments)
    table.add("GET", "/payments/status", ledger.status)
    table.add("GET", "/payments/{id}", ledger.payment)
    table.add("GET", "/batchCycles", ledger.cycles)
    table.add("GET", "/batchCycle/{platform}", ledger.cycle)
    table.add("POST", "/batchCycle", ledger.set_cycle)
    table.add("POST", "/batchCycle/{platform}/now", ledger.process_now)
    table.add("GET", "/batchOrders", ledger.orders)
    table.add("GET", "/batchOrders/{id}", ledger.order)
    table.add("GET", "/batchOrders/{id}/items", ledger.order_items)
    table.add("GET", "/batchOrders/{id}/items/{payee}/details", ledger.order_details)
    table.add("GET", "/payActivities", ledger.activities)
    table.add("GET", "/payActivities/{id}", ledger.activity)
    table.add("GET", "/payActivities/{id}/orders", ledger.activity_orders)
    table.add("GET", "/payActivities/{id}/invoice", ledger.activity_invoice)
    table.add("GET", "/payActivities/{id}/debitNotes", ledger.activity_notes)
    table.add("GET", "/payAgreements", ledger.agreements)
    table.add("GET", "/payAgreements/{id}", ledger.agreement)
    table.add("GET", "/payAgreements/{id}/orders", ledger.agreement_orders)
    table.add("GET", "/payAgreements/{id}/invoice", ledger.agreement_invoice)
    table.add("GET", "/payAgreements/{id}/activities", ledger.agreement_activities)
    return table


class _Documents:
    """Debit notes, invoices and their events."""

    def __init__(self, payment: PaymentProtocol) -> None:
        self._payment = payment

    @property
    def _service(self) -> PaymentService:
        return self._payment.service

    async def issue_note(self, request: ApiRequest) -> Response:
        body = await read_object(request)
        activity_id = required_text(request, body, "activityId")
        total = required_amount(request, body, "totalAmountDue")
        due = optional_time(request, body, "paymentDueDate")
        with worded():
            note = await self._service.issue_debit_note(
                request.identity,
                activity_id=activity_id,
                total_due_wei=total,
                usage=body.get("usageCounterVector"),
                due_ns=due,
            )
        return answer(shape.debit_note(note), 201)

    async def issue_invoice(self, request: ApiRequest) -> Response:
        body = await read_object(request)
        agreement_id = required_text(request, body, "agreementId")
        amount = required_amount(request, body, "amount")
        due = optional_time(request, body, "paymentDueDate")
        ids = body.get("activityIds") or []
        if not isinstance(ids, list) or not all(isinstance(id_, str) for id_ in ids):
            raise request.bad_body("Json deserialize error: activityIds: expected a sequence of strings")
        with worded():
            invoice = await self._service.issue_invoice(
                request.identity, agreement_id=agreement_id, amount_wei=amount, activity_ids=ids, due_ns=due
            )
        return answer(shape.invoice(invoice), 201)

    async def notes(self, request: ApiRequest) -> Response:
        after, limit = request.query_time("afterTimestamp"), read_count(request, "maxItems")
        found = await self._service.debit_notes(request.identity, after_ns=after, limit=limit)
        return answer([shape.debit_note(row) for row in found])

    async def invoices(self, request: ApiRequest) -> Response:
        after, limit = request.query_time("afterTimestamp"), read_count(request, "maxItems")
        found = await self._service.invoices(request.identity, after_ns=after, limit=limit)
        return answer([shape.invoice(row) for row in found])

    async def note(self, request: ApiRequest) -> Response:
        with worded():
            found = await self._service.debit_note(request.identity, request.path["id"])
        return answer(shape.debit_note(found))

    async def invoice(self, request: ApiRequest) -> Response:
        with worded():
            found = await self._service.invoice(request.identity, request.path["id"])
        return answer(shape.invoice(found))

    async def send_note(self, request: ApiRequest) -> Response:
        timeout = read_timeout(request, ACK_TIMEOUT)
        with worded():
            await self._service.send_debit_note(request.identity, request.path["id"], timeout=timeout)
        return answer(None)

    async def send_invoice(self, request: ApiRequest) -> Response:
        timeout = read_timeout(request, ACK_TIMEOUT)
        with worded():
            await self._service.send_invoice(request.identity, request.path["id"], timeout=timeout)
        return answer(None)

    async def accept_note(self, request: ApiRequest) -> Response:
        amount, allocation_id = await _acceptance(request)
        with worded():
            await self._service.accept_debit_note(
                request.identity, request.path["id"], amount_wei=amount, allocation_id=allocation_id
            )
        return answer(None)

    async def accept_invoice(self, request: ApiRequest) -> Response:
        amount, allocation_id = await _acceptance(request)
        with worded():
            await self._service.accept_invoice(
                request.identity, request.path["id"], amount_wei=amount, allocation_id=allocation_id
            )
        return answer(None)

    async def cancel_invoice(self, request: ApiRequest) -> Response:
        timeout = read_timeout(request, ACK_TIMEOUT)
        with worded(wrong_state=409):
            await self._service.cancel_invoice(request.identity, request.path["id"], timeout=timeout)
        return answer(None)

    async def reject_invoice(self, request: ApiRequest) -> Response:
        body = await read_object(request)
        read_timeout(request, ACK_TIMEOUT)
        rejection = Rejection(
            reason=required_text(request, body, "rejectionReason"),
            accepted_wei=required_amount(request, body, "totalAmountAccepted"),
            message=optional_text(request, body, "message"),
        )
        with worded():
            await self._service.reject_invoice(request.identity, request.path["id"], rejection)
        return answer(None)

    async def invoice_payments(self, request: ApiRequest) -> Response:
        with worded():
            found = await self._service.invoice_payments(request.identity, request.path["id"])
        return answer([shape.payment(row) for row in found])

    def events(self, kind: Kind) -> Handler:
        async def poll(request: ApiRequest) -> Response:
            found = await self._service.document_events(
                request.identity,
                kind,
                after_ns=request.query_time("afterTimestamp"),
                timeout=read_timeout(request, POLL_TIMEOUT),
                limit=read_count(request, "maxEvents"),
                session_id=request.query_text("appSessionId"),
                requestor_events=wanted_events(request, "x-requestor-events", REQUESTOR_EVENTS),
                provider_events=wanted_events(request, "x-provider-events", PROVIDER_EVENTS),
            )
            return answer([shape.event(row) for row in found])

        return poll


class _Ledger:
    """Payments, cycles, orders and totals."""

    def __init__(self, payment: PaymentProtocol) -> None:
        self._payment = payment

    @property
    def _service(self) -> PaymentService:
        return self._payment.service

    async def payments(self, request: ApiRequest) -> Response:
        network, driver = request.query_text("network"), request.query_text("driver")
        try:
            await self._service.troubles(request.identity, driver=driver, network=network)
        except NotFound as unknown:
            raise error(500, str(unknown)) from unknown
        found = await self._service.payments(
            request.identity,
            after_ns=request.query_time("afterTimestamp"),
            timeout=read_timeout(request, POLL_TIMEOUT),
            limit=read_count(request, "maxEvents"),
            session_id=request.query_text("appSessionId"),
            network=network,
            driver=driver,
        )
        return answer([shape.payment(row) for row in found])

    async def payment(self, request: ApiRequest) -> Response:
        with worded():
            return answer(shape.payment(await self._service.payment(request.identity, request.path["id"])))

    async def status(self, request: ApiRequest) -> Response:
        try:
            found = await self._service.troubles(
                request.identity, driver=request.query_text("driver"), network=request.query_text("network")
            )
        except NotFound as unknown:
            raise error(404, str(unknown)) from unknown
        return answer([shape.trouble(row) for row in found])

    async def cycles(self, request: ApiRequest) -> Response:
        return answer([shape.cycle(row) for row in await self._service.cycles(request.identity)])

    async def cycle(self, request: ApiRequest) -> Response:
        return answer(shape.cycle(await self._service.cycle(request.identity, request.path["platform"])))

    async def set_cycle(self, request: ApiRequest) -> Response:
        body = await read_object(request)
        platform = required_text(request, body, "platform")
        if len(platform) > _MAX_PLATFORM_CHARS:
            raise error(400, f"a platform's name has at most {_MAX_PLATFORM_CHARS} characters")
        with worded():
            made = await self._service.set_cycle(
                request.identity,
                platform,
                interval_s=optional_seconds(request, body, "intervalSec"),
                cron=optional_text(request, body, "cron"),
                extra_s=optional_seconds(request, body, "extraPayTimeSec"),
                next_ns=optional_time(request, body, "nextUpdate"),
            )
        return answer(shape.cycle_set(made))

    async def process_now(self, request: ApiRequest) -> Response:
        try:
            platform = parse_platform(request.path["platform"])
        except UnknownPlatform as unknown:
            raise error(400, str(unknown)) from unknown
        resolved, sent = await self._service.process_now(request.identity, platform)
        return answer({"resolve_time_ms": resolved * 1000, "send_time_ms": sent * 1000})

    async def orders(self, request: ApiRequest) -> Response:
        return answer([shape.order(row) for row in await self._service.orders(request.identity)])

    async def order(self, request: ApiRequest) -> Response:
        found = await self._service.orders(request.identity, request.path["id"])
        return answer(shape.order(found[0]) if found else None)

    async def order_items(self, request: ApiRequest) -> Response:
        found = await self._service.order_entries(request.identity, order_id=request.path["id"])
        return answer(shape.order_items(found))

    async def order_details(self, request: ApiRequest) -> Response:
        found = await self._service.order_entries(
            request.identity, order_id=request.path["id"], payee_addr=request.path["payee"]
        )
        return answer([shape.order_entry(row) for row in found])

    async def activities(self, request: ApiRequest) -> Response:
        found = await self._service.activity_ledger(request.identity)
        return answer([shape.activity_row(row, parties=False) for row in found])

    async def agreements(self, request: ApiRequest) -> Response:
        found = await self._service.agreement_ledger(request.identity)
        return answer([shape.agreement_row(row) for row in found])

    async def activity(self, request: ApiRequest) -> Response:
        return answer(shape.activity_row(await self._activity(request), parties=True))

    async def agreement(self, request: ApiRequest) -> Response:
        found = await self._service.agreement_ledger(request.identity, request.path["id"])
        if not found:
            raise error(404, None)
        return answer(shape.agreement_row(found[0]))

    async def activity_orders(self, request: ApiRequest) -> Response:
        found = await self._service.order_entries(request.identity, activity_id=request.path["id"])
        return answer([shape.order_entry(row) for row in found])

    async def agreement_orders(self, request: ApiRequest) -> Response:
        found = await self._service.order_entries(request.identity, agreement_id=request.path["id"])
        return answer([shape.order_entry(row) for row in found])

    async def activity_invoice(self, request: ApiRequest) -> Response:
        return answer(await self._last_invoice(request, (await self._activity(request)).agreement_id))

    async def agreement_invoice(self, request: ApiRequest) -> Response:
        return answer(await self._last_invoice(request, request.path["id"]))

    async def activity_notes(self, request: ApiRequest) -> Response:
        notes = await self._service.debit_notes(request.identity, activity_id=request.path["id"])
        return answer([shape.debit_note(row) | {"debitNonce": row.number} for row in reversed(notes)])

    async def agreement_activities(self, request: ApiRequest) -> Response:
        found = await self._service.activity_ledger(request.identity, agreement_id=request.path["id"])
        return answer([shape.activity_row(row, parties=False) for row in found])

    async def _activity(self, request: ApiRequest) -> LedgerRow:
        found = await self._service.activity_ledger(request.identity, request.path["id"])
        if not found:
            raise error(404, None)
        return found[0]

    async def _last_invoice(self, request: ApiRequest, agreement_id: str) -> dict[str, Any] | None:
        found = await self._service.invoices(request.identity, agreement_id=agreement_id)
        return shape.invoice(found[-1]) if found else None


async def _acceptance(request: ApiRequest) -> tuple[int, str]:
    """Read an acceptance: the amount and the allocation that pays it."""
    body = await read_object(request)
    read_timeout(request, ACK_TIMEOUT)  # the answer does not wait for the peer, but must be a number
    amount = required_amount(request, body, "totalAmountAccepted")
    return amount, required_text(request, body, "allocationId")


async def _not_implemented(request: ApiRequest) -> Response:
    # So does the Golem daemon; no client depends on more, and old peers would not understand.
    raise error(501, None)
