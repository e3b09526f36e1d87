"""Booking what a confirmed transaction paid: transfers, orders, totals, documents, and the receipts for payees.

One transaction books all of it; each payee's node hears of it through the outbox.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocols.ground.money import format_amount
from protocols.ground.times import format_time
from protocols.payment.core import receipts
from protocols.payment.effects import settle
from protocols.payment.events import PaymentMade
from protocols.payment.messages import ActivityShare, AgreementShare, PaymentBody, SendPayment
from protocols.payment.records import Payment, PaymentState, Share
from protocols.payment.store import ledger, orders, payments

if TYPE_CHECKING:
    from collections.abc import Iterable

    from p2p.identity import Signer
    from protocols.payment.books import Entry
    from protocols.payment.records import OrderEntry
    from protocols.payment.store.orders import TransferRow


def book_paid(entry: Entry, transfer: TransferRow, tx_hash: str, payer: str, signer: Signer) -> None:
    """Book a transfer as paid by a transaction.

    Args:
        payer: the address that it was paid from.
        signer: the key of the transfer's owner, who signs for the split.
    """
    orders.set_paid(entry.c, transfer.transfer_id, tx_hash)
    orders.add_paid(entry.c, transfer.order_id, transfer.amount_wei, entry.now_ns)
    debts = orders.entries(entry.c, transfer.owner, transfer_id=transfer.transfer_id)
    for agreement_id in sorted({debt.agreement_id for debt in debts}):
        paid = [debt for debt in debts if debt.agreement_id == agreement_id]
        with ledger.changing(entry.c, transfer.owner, "R", agreement_id, entry.now_ns) as totals:
            for debt in paid:
                totals.pay(debt.activity_id, debt.amount_wei)
            touched = sorted({debt.activity_id for debt in paid if debt.activity_id is not None})
            settle(entry, transfer.owner, "R", agreement_id, totals, touched)
    # Several providers may share a wallet: each gets its own split of the one transfer.
    for peer in sorted({debt.peer for debt in debts}):
        _give_receipt(entry, transfer, [d for d in debts if d.peer == peer], peer, tx_hash, payer, signer)
    entry.payments = True


def send_receipt(entry: Entry, payment: Payment) -> None:
    """Tell a payee of a payment; telling it again changes nothing."""
    entry.tell_money(
        payment.peer,
        SendPayment(payment.signed_bytes, payment.signature),
        f"payment:{payment.owner}:{payment.payment_id}",
    )


def _give_receipt(
    entry: Entry,
    transfer: TransferRow,
    debts: Iterable[OrderEntry],
    peer: str,
    tx_hash: str,
    payer: str,
    signer: Signer,
) -> None:
    shares = tuple(
        Share(
            agreement_id=debt.agreement_id,
            activity_id=debt.activity_id,
            amount_wei=debt.amount_wei,
            allocation_id=debt.allocation_id,
        )
        for debt in debts
    )
    timestamp_ns = payments.next_timestamp(entry.c, transfer.owner, entry.now_ns)
    amount = sum(share.amount_wei for share in shares)
    body = PaymentBody(
        payment_id=transfer.transfer_id,
        payer_id=transfer.owner,
        payee_id=peer,
        payer_addr=payer,
        payee_addr=transfer.payee_addr,
        payment_platform=transfer.platform,
        amount=format_amount(amount),
        timestamp=format_time(timestamp_ns),
        agreement_payments=tuple(
            AgreementShare(id_, format_amount(wei)) for id_, wei in _sums(shares, of_invoices=True)
        ),
        activity_payments=tuple(
            ActivityShare(id_, format_amount(wei)) for id_, wei in _sums(shares, of_invoices=False)
        ),
        details=receipts.details_of(tx_hash),
    )
    signed_bytes = receipts.canonical_bytes(body)
    payment = Payment(
        payment_id=transfer.transfer_id,
        owner=transfer.owner,
        role="R",
        peer=peer,
        payer_id=transfer.owner,
        payee_id=peer,
        payer_addr=payer,
        payee_addr=transfer.payee_addr,
        platform=transfer.platform,
        amount_wei=amount,
        timestamp_ns=timestamp_ns,
        tx_hash=tx_hash,
        shares=shares,
        state=PaymentState.FINAL,
        signed_bytes=signed_bytes,
        signature=receipts.sign(signer, signed_bytes),
    )
    payments.insert(entry.c, payment, confirmed_ns=entry.now_ns, check_ns=None)
    send_receipt(entry, payment)
    entry.publish(
        PaymentMade(
            owner=transfer.owner,
            payment_id=transfer.transfer_id,
            peer=peer,
            platform=transfer.platform,
            amount=format_amount(amount),
            tx_hash=tx_hash,
        )
    )


def _sums(shares: Iterable[Share], *, of_invoices: bool) -> list[tuple[str, int]]:
    """Add up the shares of each agreement's invoice, or of each activity, over all allocations."""
    sums: dict[str, int] = {}
    for share in shares:
        if (share.activity_id is None) is of_invoices:
            id_ = share.activity_id or share.agreement_id
            sums[id_] = sums.get(id_, 0) + share.amount_wei
    return sorted(sums.items())
