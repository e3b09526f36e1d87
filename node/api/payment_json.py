"""Payment's values as REST shows them, and what clients send as values. Translation only, used by `payment`.

Optional members that are unknown are left out rather than null, because generated clients validate them.
Amounts are decimal text. Times have the precision of the Golem daemon's: nanoseconds on allocations,
milliseconds on documents, microseconds on events; batch tables have theirs without a zone.
"""

from __future__ import annotations

import decimal
import re
from typing import TYPE_CHECKING, Any, Final

from protocols.ground.money import MoneyError, format_amount, parse_amount
from protocols.ground.times import format_naive_time, format_time
from protocols.payment.core.receipts import details_of
from protocols.payment.networks import NETWORKS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from protocols.payment.records import (
        Account,
        Allocation,
        Cycle,
        DebitNote,
        Decorations,
        DocumentEvent,
        Expenditure,
        Invoice,
        LedgerRow,
        Order,
        OrderEntry,
        Payment,
        Trouble,
    )

MOST_WEI: Final = 2**96 - 1
_NUMBER: Final = re.compile(r"[+-]?\d*\.?\d*([eE][+-]?\d{1,3})?\Z", re.ASCII)
_MICROSECOND: Final = 1_000
_SECOND: Final = 1_000_000_000
_EVENT_NAMES: Final = {
    "RECEIVED": "ReceivedEvent",
    "ACCEPTED": "AcceptedEvent",
    "REJECTED": "RejectedEvent",
    "CANCELLED": "CancelledEvent",
    "SETTLED": "SettledEvent",
    "PAYMENT_EVENT": "PaymentStatusEvent",
    "PAYMENT_OK": "PaymentOkEvent",
}


def read_amount(value: Any) -> int:
    """Read an amount: decimal text or a number. Raises MoneyError."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise MoneyError("expected a number or formatted decimal string")
    wei = parse_amount(value)
    if abs(wei) > MOST_WEI:
        raise MoneyError("the amount is out of range")
    return wei


def read_budget(value: Any) -> int:
    """Read what an allocation should hold; what is finer than a wei is cut off.

    Python clients make budgets of floats and send all their digits.
    """
    try:
        return read_amount(value)
    except MoneyError:
        if isinstance(value, bool) or not isinstance(value, str | float) or not _NUMBER.match(str(value)):
            raise
    try:
        exact = decimal.Decimal(str(value))
        if not exact.is_finite() or exact.adjusted() > 60 or exact.adjusted() < -60:
            raise MoneyError(f"{str(value)[:80]!r} is not an amount")
        cut = exact.quantize(decimal.Decimal(1).scaleb(-18), decimal.ROUND_DOWN, decimal.Context(prec=120))
    except decimal.InvalidOperation as error:
        raise MoneyError(f"{str(value)[:80]!r} is not an amount") from error
    return read_amount(f"{cut:f}")


def account(row: Account) -> dict[str, Any]:
    """Write an account."""
    driver, network, token = row.platform.split("-")
    known = NETWORKS.get(network)
    symbol = token if known is None else "GLM" if known.production else "tGLM"
    return {
        "platform": row.platform,
        "address": row.address,
        "driver": driver,
        "network": network,
        "token": symbol,
        "send": row.send,
        "receive": row.receive,
    }


def allocation(row: Allocation) -> dict[str, Any]:
    """Write an allocation."""
    return {
        "allocationId": row.allocation_id,
        "address": row.address,
        "paymentPlatform": row.platform,
        "totalAmount": format_amount(row.total_wei),
        "spentAmount": format_amount(row.spent_wei),
        "remainingAmount": format_amount(row.remaining_wei),
        "timestamp": format_time(row.created_ns),
        "timeout": format_time(row.timeout_ns),
        "createdTs": format_time(row.created_ns),
        "updatedTs": format_time(row.updated_ns),
        "makeDeposit": False,
    }


def expenditure(row: Expenditure) -> dict[str, Any]:
    """Write what an allocation has promised."""
    return _present(
        allocationId=row.allocation_id,
        agreementId=row.agreement_id,
        activityId=row.activity_id,
        acceptedAmount=format_amount(row.accepted_wei),
        scheduledAmount=format_amount(row.scheduled_wei),
    )


def decorations(row: Decorations) -> dict[str, Any]:
    """Write what a demand must carry."""
    return {
        "properties": [{"key": key, "value": value} for key, value in row.properties],
        "constraints": list(row.constraints),
    }


def debit_note(row: DebitNote) -> dict[str, Any]:
    """Write a debit note."""
    return _present(
        debitNoteId=row.debit_note_id,
        issuerId=row.issuer_id,
        recipientId=row.recipient_id,
        payeeAddr=row.payee_addr,
        payerAddr=row.payer_addr,
        paymentPlatform=row.platform,
        previousDebitNoteId=row.previous_id,
        timestamp=format_time(row.timestamp_ns),
        agreementId=row.agreement_id,
        activityId=row.activity_id,
        totalAmountDue=format_amount(row.total_due_wei),
        usageCounterVector=row.usage,
        paymentDueDate=None if row.due_ns is None else format_time(row.due_ns),
        status=row.status.value,
    )


def invoice(row: Invoice) -> dict[str, Any]:
    """Write an invoice."""
    return {
        "invoiceId": row.invoice_id,
        "issuerId": row.issuer_id,
        "recipientId": row.recipient_id,
        "payeeAddr": row.payee_addr,
        "payerAddr": row.payer_addr,
        "paymentPlatform": row.platform,
        "timestamp": format_time(row.timestamp_ns),
        "agreementId": row.agreement_id,
        "activityIds": list(row.activity_ids),
        "amount": format_amount(row.amount_wei),
        "paymentDueDate": format_time(row.due_ns),
        "status": row.status.value,
    }


def event(row: DocumentEvent) -> dict[str, Any]:
    """Write an event of a debit note or invoice."""
    is_note = row.kind == "debit_note"
    tree: dict[str, Any] = {
        "debitNoteId" if is_note else "invoiceId": row.document_id,
        "eventDate": format_time(row.time_ns),
        "eventType": ("DebitNote" if is_note else "Invoice") + _EVENT_NAMES[row.event],
    }
    if row.rejection is not None:
        tree["rejection"] = _present(
            rejectionReason=row.rejection.reason,
            totalAmountAccepted=format_amount(row.rejection.accepted_wei),
            message=row.rejection.message,
        )
    if row.trouble is not None:
        tree["property"] = trouble(row.trouble)
    return tree


def trouble(row: Trouble) -> dict[str, Any]:
    """Write what keeps payments from going out."""
    says_address = row.kind in ("CantSign", "InsufficientGas", "InsufficientToken")
    return _present(
        kind=row.kind,
        driver=row.driver,
        network=None if row.kind == "InvalidChainId" else row.network,
        address=row.address if says_address else None,
        neededGasEst=(row.needed or "0") if row.kind == "InsufficientGas" else None,
        neededTokenEst=(row.needed or "0") if row.kind == "InsufficientToken" else None,
        chainId=(row.chain_id or 0) if row.kind == "InvalidChainId" else None,
    )


def payment(row: Payment) -> dict[str, Any]:
    """Write a payment; which allocations it came from is not shown, as in what its payee gets."""
    of_agreements: dict[str, int] = {}
    of_activities: dict[str, int] = {}
    for share in row.shares:
        if share.activity_id is None:
            sums, id_ = of_agreements, share.agreement_id
        else:
            sums, id_ = of_activities, share.activity_id
        sums[id_] = sums.get(id_, 0) + share.amount_wei
    return {
        "paymentId": row.payment_id,
        "payerId": row.payer_id,
        "payeeId": row.payee_id,
        "payerAddr": row.payer_addr,
        "payeeAddr": row.payee_addr,
        "paymentPlatform": row.platform,
        "amount": format_amount(row.amount_wei),
        "timestamp": format_time(row.timestamp_ns),
        "agreementPayments": [
            {"agreementId": id_, "amount": format_amount(wei)} for id_, wei in of_agreements.items()
        ],
        "activityPayments": [
            {"activityId": id_, "amount": format_amount(wei)} for id_, wei in of_activities.items()
        ],
        "details": details_of(row.tx_hash),
        "signature": list(row.signature),
        "signedBytes": list(row.signed_bytes),
    }


def cycle(row: Cycle) -> dict[str, Any]:
    """Write a payment cycle."""
    return {
        "nodeId": row.owner,
        "platform": row.platform,
        "intervalSec": None if row.interval_s is None else int(row.interval_s),
        "cron": row.cron,
        "maxIntervalSec": int(row.max_interval_s),
        "extraPayTimeSec": int(row.extra_s),
        "lastProcess": None if row.last_ns is None else _naive(row.last_ns) + "+00:00",
        "nextProcess": _naive(row.next_ns) + "+00:00",
    }


def cycle_set(row: Cycle) -> dict[str, Any]:
    """Write a payment cycle as the answer to setting it."""
    return {
        "Ok": {
            "nodeId": row.owner,
            "platform": row.platform,
            "interval": None if row.interval_s is None else _duration(row.interval_s),
            "cron": row.cron,
            "maxInterval": _duration(row.max_interval_s),
            "extraPaymentTime": _duration(row.extra_s),
            "nextProcess": _naive(row.next_ns),
            "lastProcess": None if row.last_ns is None else _naive(row.last_ns),
        }
    }


def order(row: Order) -> dict[str, Any]:
    """Write a payment order."""
    return {
        "id": row.order_id,
        "createdTs": _naive(row.created_ns),
        "updatedTs": _naive(row.updated_ns),
        "ownerId": row.owner,
        "payerAddr": row.payer_addr,
        "platform": row.platform,
        "totalAmount": format_amount(row.total_wei),
        "paidAmount": format_amount(row.paid_wei),
    }


def order_items(entries: Sequence[OrderEntry]) -> list[dict[str, Any]]:
    """Write what an order pays to each address from each allocation."""
    groups: dict[tuple[str, str], list[OrderEntry]] = {}
    for entry in entries:
        groups.setdefault((entry.payee_addr, entry.allocation_id), []).append(entry)
    return [
        {
            "orderId": group[0].order_id,
            "ownerId": group[0].owner,
            "payeeAddr": payee,
            "allocationId": allocation_id,
            "amount": format_amount(sum(entry.amount_wei for entry in group)),
            "paymentId": group[0].transfer_id,
            "paid": group[0].paid,
        }
        for (payee, allocation_id), group in groups.items()
    ]


def order_entry(row: OrderEntry) -> dict[str, Any]:
    """Write one debt of an order."""
    return {
        "createdTs": _naive(row.created_ns),
        "updatedTs": _naive(row.updated_ns),
        "orderId": row.order_id,
        "ownerId": row.owner,
        "payeeAddr": row.payee_addr,
        "allocationId": row.allocation_id,
        "amount": format_amount(row.amount_wei),
        "agreementId": row.agreement_id,
        "invoiceId": row.invoice_id,
        "activityId": row.activity_id,
        "debitNoteId": row.debit_note_id,
    }


def agreement_row(row: LedgerRow) -> dict[str, Any]:
    """Write an agreement's totals."""
    return _totals(row) | _parties(row) | _present(paymentPlatform=row.platform, appSessionId=row.session_id)


def activity_row(row: LedgerRow, *, parties: bool) -> dict[str, Any]:
    """Write an activity's totals; who its parties are is shown with one, and not in lists."""
    return _totals(row) | {"agreementId": row.agreement_id} | (_parties(row) if parties else {})


def _totals(row: LedgerRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "ownerId": row.owner,
        "role": row.role,
        "totalAmountDue": format_amount(row.totals.due),
        "totalAmountAccepted": format_amount(row.totals.accepted),
        "totalAmountScheduled": format_amount(row.totals.scheduled),
        "totalAmountPaid": format_amount(row.totals.paid),
        "createdTs": format_naive_time(row.created_ns - row.created_ns % _SECOND),
        "updatedTs": format_naive_time(row.updated_ns - row.updated_ns % _SECOND),
    }


def _parties(row: LedgerRow) -> dict[str, Any]:
    return {"peerId": row.peer, "payeeAddr": row.payee_addr, "payerAddr": row.payer_addr}


def _naive(ns: int) -> str:
    return format_naive_time(ns - ns % _MICROSECOND)


def _duration(seconds: float) -> dict[str, int]:
    whole = int(seconds)
    return {"secs": whole, "nanos": int((seconds - whole) * _SECOND)}


def _present(**members: Any) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}
