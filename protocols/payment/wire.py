"""Between records and messages: wei and nanoseconds here, decimal and RFC 3339 text there; bounds of what comes in.

Errors: `BadRequest` for anything from outside that is out of bounds.
"""

from __future__ import annotations

import re
from typing import Any, Final

from p2p.identity import InvalidNodeId, parse_node_id
from protocols.ground.money import MoneyError, format_amount, parse_amount
from protocols.ground.times import TimeFormatError, format_time, parse_time
from protocols.payment.errors import BadRequest
from protocols.payment.messages import MAX_TEXT, MAX_USAGE_COUNTERS, SendDebitNote, SendInvoice
from protocols.payment.messages import Rejection as RejectionMessage
from protocols.payment.records import DebitNote, Invoice, Rejection
from protocols.payment.store.form import to_json

MOST_WEI: Final = 2**96 - 1
"""Largest amount: what a packed multi-transfer can carry, 7.9e10 tokens."""
_MAX_USAGE_BYTES: Final = 8 * 1024
_ID: Final = re.compile(r"[0-9A-Za-z_-]{1,128}\Z")
_MILLISECOND: Final = 1_000_000
_LATEST_NS: Final = 253_402_300_799 * 1_000_000_000
"""The end of the year 9999, as far as RFC 3339 goes."""


def check_amount(wei: int) -> None:
    """Refuse an amount that no chain could carry."""
    if not 0 <= wei <= MOST_WEI:
        raise BadRequest(f"an amount of {format_amount(wei)} is out of range")


def check_usage(usage: Any) -> None:
    """Refuse usage counters that are too many or too large."""
    if isinstance(usage, list | tuple) and len(usage) > MAX_USAGE_COUNTERS:
        raise BadRequest(f"{len(usage)} usage counters; at most {MAX_USAGE_COUNTERS} are taken")
    if usage is not None and len(to_json(usage)) > _MAX_USAGE_BYTES:
        raise BadRequest(f"usage counters of more than {_MAX_USAGE_BYTES} bytes")


def check_rejection(rejection: Rejection) -> None:
    """Refuse a rejection whose text is too long."""
    if len(rejection.reason) > 100 or len(rejection.message or "") > MAX_TEXT:
        raise BadRequest(f"a rejection's message has at most {MAX_TEXT} characters")


def milliseconds(ns: int) -> int:
    """Cut a time to whole milliseconds: the precision of documents' timestamps."""
    return ns - ns % _MILLISECOND


def read_amount(text: str, what: str) -> int:
    """Read an amount from a peer."""
    try:
        wei = parse_amount(text)
    except MoneyError as error:
        raise BadRequest(f"{what}: {error}") from error
    check_amount(wei)
    return wei


def read_time(text: str, what: str) -> int:
    """Read a time from a peer."""
    try:
        ns = parse_time(text)
    except TimeFormatError as error:
        raise BadRequest(f"{what}: {error}") from error
    if not 0 <= ns <= _LATEST_NS:
        raise BadRequest(f"{what}: {text[:40]} is out of range")
    return ns


def check_ids(*ids: str) -> None:
    """Refuse ids that are no ids."""
    for id_ in ids:
        if not _ID.match(id_):
            raise BadRequest(f"{id_[:80]!r} is not an id")


def check_addresses(*addresses: str) -> None:
    """Refuse what is not an address or node id in lower case."""
    for address in addresses:
        try:
            parsed = parse_node_id(address)
        except InvalidNodeId as error:
            raise BadRequest(str(error)) from error
        if parsed != address:
            raise BadRequest(f"{address} must be in lower case")


def debit_note_message(note: DebitNote) -> SendDebitNote:
    """Write a debit note for its recipient."""
    return SendDebitNote(
        debit_note_id=note.debit_note_id,
        issuer_id=note.issuer_id,
        recipient_id=note.recipient_id,
        payee_addr=note.payee_addr,
        payer_addr=note.payer_addr,
        payment_platform=note.platform,
        agreement_id=note.agreement_id,
        activity_id=note.activity_id,
        total_amount_due=format_amount(note.total_due_wei),
        timestamp=format_time(note.timestamp_ns),
        previous_debit_note_id=note.previous_id,
        usage_counter_vector=note.usage,
        payment_due_date=None if note.due_ns is None else format_time(note.due_ns),
    )


def invoice_message(invoice: Invoice) -> SendInvoice:
    """Write an invoice for its recipient."""
    return SendInvoice(
        invoice_id=invoice.invoice_id,
        issuer_id=invoice.issuer_id,
        recipient_id=invoice.recipient_id,
        payee_addr=invoice.payee_addr,
        payer_addr=invoice.payer_addr,
        payment_platform=invoice.platform,
        agreement_id=invoice.agreement_id,
        amount=format_amount(invoice.amount_wei),
        timestamp=format_time(invoice.timestamp_ns),
        payment_due_date=format_time(invoice.due_ns),
        activity_ids=invoice.activity_ids,
    )


def rejection_message(rejection: Rejection) -> RejectionMessage:
    """Write a rejection for the issuer."""
    return RejectionMessage(rejection.reason, format_amount(rejection.accepted_wei), rejection.message)


def read_rejection(message: RejectionMessage) -> Rejection:
    """Read a rejection from the requestor."""
    rejection = Rejection(
        reason=message.rejection_reason,
        accepted_wei=read_amount(message.total_amount_accepted, "totalAmountAccepted"),
        message=message.message,
    )
    check_rejection(rejection)
    return rejection
