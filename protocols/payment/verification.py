"""Payments that others say they made to us: checked against their signature, our documents and the chain.

A payment is taken when its payer's identity signed the split, every share is of an agreement between the two,
and the chain shows enough moved from the payer's wallet to ours that no other payment has claimed. It settles
documents at the network's depth, and is watched until it is final: what a reorganisation takes back is open
again. A chain that does not answer, or has not seen the transaction yet, rejects nothing: the payer is told to
say it again.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import trio

from p2p.bus import ServiceError
from protocols.ground.money import format_amount, parse_amount
from protocols.payment import wire
from protocols.payment.chains import network_name
from protocols.payment.core import receipts
from protocols.payment.core.verification import PATIENCE_S, check_cover, check_pause_s, judge
from protocols.payment.drivers.errors import ChainUnavailable, PaymentRejected, TransactionUnknown
from protocols.payment.effects import reopen, settle
from protocols.payment.errors import BadRequest, NotYours, PaymentError
from protocols.payment.events import PaymentSettled, PaymentTaken
from protocols.payment.messages import KIND_BUSY, KIND_RETRY, Ack
from protocols.payment.peer_documents import answers
from protocols.payment.records import Payment, PaymentState, Share, Trouble
from protocols.payment.store import ledger, payments

if TYPE_CHECKING:
    from p2p.bus import Caller
    from p2p.storage import Connection
    from protocols.payment.books import Books, Entry
    from protocols.payment.chains import Chains
    from protocols.payment.drivers.base import PaymentDriver, Verified
    from protocols.payment.messages import PaymentBody, SendPayment
    from protocols.payment.store.payments import Watched

_MAX_SEEN_OF_PEER: Final = 200
"""Payments of one payer that may wait for their depth."""
_CHECKS_AT_ONCE: Final = 50
_LONGEST_SLEEP: Final = 300.0


class Verification:
    """Takes payments, and watches those that are not final."""

    def __init__(self, books: Books, chains: Chains) -> None:
        self._books = books
        self._chains = chains

    async def send_payment(self, caller: Caller, message: SendPayment) -> Ack:
        """Answer a payer."""
        with answers():
            body = receipts.read_payment(message.signed_bytes, message.signature)
            tx_hash = receipts.transaction_hash(body)
            if body.payer_id != caller.node_id:
                raise NotYours("only its payer can send a payment")
            if self._books.signer(body.payee_id) is None:
                raise NotYours(f"{body.payee_id} is no identity of this node")
            wire.check_ids(body.payment_id)
            shares = await self._books.read(lambda c: _shares(c, body))
            if await self._books.read(lambda c: _known(c, body, message.signed_bytes)):
                return Ack()
            driver = await self._chains.driver(body.payment_platform)
            verified = await _look(driver, tx_hash, body.payer_addr, body.payee_addr)
            await self._books.commit(lambda entry: self._take(entry, body, message, shares, verified, driver))
        return Ack()

    async def watch(self) -> None:
        """Look at payments again until they are final, until cancelled."""
        while True:
            ticket = self._books.payment_signal.ticket()
            now_ns = self._books.now_ns
            for watched in await self._books.read(
                lambda c, now_ns=now_ns: payments.due_checks(c, now_ns, _CHECKS_AT_ONCE)  # type: ignore[misc]
            ):
                await self._check(watched)
            due = await self._books.read(payments.next_check)
            pause = math.inf
            if due is not None:
                pause = min(_LONGEST_SLEEP, max(0.01, (due - self._books.now_ns) / 1e9))
            with trio.move_on_after(pause):
                await ticket.wait()

    # --- taking ---------------------------------------------------------------------------------------------

    def _take(
        self,
        entry: Entry,
        body: PaymentBody,
        message: SendPayment,
        shares: tuple[Share, ...],
        verified: Verified,
        driver: PaymentDriver,
    ) -> None:
        if _known(entry.c, body, message.signed_bytes):
            return  # a twin of this message was quicker
        amount = parse_amount(body.amount)
        claimed = payments.claims(
            entry.c, body.payment_platform, verified.tx_hash, body.payer_addr, body.payee_addr
        )
        check_cover(amount, claimed, verified.amount_wei)
        depth = driver.network.confirmations
        state = judge(PaymentState.SEEN, verified.confirmations, depth=depth, age_s=0.0)
        if state is PaymentState.SEEN and payments.count_seen(entry.c, body.payer_id) >= _MAX_SEEN_OF_PEER:
            raise ServiceError(KIND_BUSY, "too many of your payments wait for their depth")
        payment = Payment(
            payment_id=body.payment_id,
            owner=body.payee_id,
            role="P",
            peer=body.payer_id,
            payer_id=body.payer_id,
            payee_id=body.payee_id,
            payer_addr=body.payer_addr,
            payee_addr=body.payee_addr,
            platform=body.payment_platform,
            amount_wei=amount,
            timestamp_ns=payments.next_timestamp(entry.c, body.payee_id, entry.now_ns),
            tx_hash=verified.tx_hash,
            shares=shares,
            state=state,
            signed_bytes=message.signed_bytes,
            signature=message.signature,
        )
        confirmed_ns = entry.now_ns if state is PaymentState.CONFIRMED else None
        check_ns = self._next_check(payment, state, confirmed_ns, entry.now_ns)
        payments.insert(entry.c, payment, confirmed_ns=confirmed_ns, check_ns=check_ns)
        if state is PaymentState.CONFIRMED:
            _settle(entry, payment)
        entry.payments = True

    def _next_check(
        self, payment: Payment, state: PaymentState, confirmed_ns: int | None, now_ns: int
    ) -> int | None:
        if state is PaymentState.FINAL:
            return None
        age_s = (now_ns - (confirmed_ns or payment.timestamp_ns)) / 1e9
        least_s = self._books.settings.poll_s or 1.0
        return now_ns + int(check_pause_s(state, age_s, least_s) * 1e9)

    # --- watching -------------------------------------------------------------------------------------------

    async def _check(self, watched: Watched) -> None:
        payment = watched.payment
        try:
            driver = await self._chains.driver(payment.platform)
            verified = await driver.verify(payment.tx_hash, payment.payer_addr, payment.payee_addr)
            confirmations, on_chain = verified.confirmations, verified.amount_wei
        except (TransactionUnknown, PaymentRejected):
            confirmations = on_chain = 0
        except (ChainUnavailable, PaymentError) as error:
            self._books.ctx.log.info("payment not checked", payment=payment.payment_id, error=str(error))
            await self._books.commit(lambda entry: self._postpone(entry, watched), durable=False)
            return
        depth = driver.network.confirmations
        await self._books.commit(lambda entry: self._advance(entry, watched, confirmations, on_chain, depth))

    def _advance(
        self, entry: Entry, watched: Watched, confirmations: int, on_chain_wei: int, depth: int
    ) -> None:
        payment = watched.payment
        claimed = payments.claims(
            entry.c, payment.platform, payment.tx_hash, payment.payer_addr, payment.payee_addr
        )
        if sum(claimed) > on_chain_wei:
            confirmations = 0  # what came back after a reorganisation pays less than it did
        since = payment.timestamp_ns if watched.confirmed_ns is None else watched.confirmed_ns
        age_s = (entry.now_ns - since) / 1e9
        state = judge(payment.state, confirmations, depth=depth, age_s=age_s)
        timestamp_ns = payment.timestamp_ns
        if state is PaymentState.SEEN and payment.state is PaymentState.CONFIRMED:
            _take_back(entry, payment)
        elif state is PaymentState.CONFIRMED and payment.state is PaymentState.SEEN:
            _settle(entry, payment)
            entry.payments = True
            timestamp_ns = payments.next_timestamp(entry.c, payment.owner, entry.now_ns)
        elif state is PaymentState.SEEN and confirmations == 0 and age_s > PATIENCE_S:
            payments.delete(entry.c, payment)
            return
        confirmed_ns = None if state is PaymentState.SEEN else watched.confirmed_ns or entry.now_ns
        check_ns = self._next_check(payment, state, confirmed_ns, entry.now_ns)
        payments.set_state(
            entry.c,
            payment,
            state,
            timestamp_ns=timestamp_ns,
            confirmed_ns=confirmed_ns,
            check_ns=check_ns,
        )

    def _postpone(self, entry: Entry, watched: Watched) -> None:
        payment = watched.payment
        payments.set_state(
            entry.c,
            payment,
            payment.state,
            timestamp_ns=payment.timestamp_ns,
            confirmed_ns=watched.confirmed_ns,
            check_ns=entry.now_ns + int(10e9),
        )


async def _look(driver: PaymentDriver, tx_hash: str, payer_addr: str, payee_addr: str) -> Verified:
    """Ask the chain, and say to the payer what its answer means."""
    try:
        return await driver.verify(tx_hash, payer_addr, payee_addr)
    except PaymentRejected as error:
        raise BadRequest(str(error)) from error
    except (TransactionUnknown, ChainUnavailable) as error:
        raise ServiceError(KIND_RETRY, str(error)) from error


def _known(c: Connection, body: PaymentBody, signed_bytes: bytes) -> bool:
    """Return whether this payment was taken before. Raises BadRequest if another has its id."""
    known = payments.received(c, body.payee_id, body.payment_id, body.payer_id)
    if known is None:
        return False
    if known.signed_bytes != signed_bytes:
        raise BadRequest("a different payment with this id was received before")
    return True


def _shares(c: Connection, body: PaymentBody) -> tuple[Share, ...]:
    """Return a payment's shares, each found to be of an agreement that the payer owes us under."""
    shares: list[Share] = []
    for of_agreement in body.agreement_payments:
        _check_agreement(c, body, of_agreement.agreement_id)
        shares.append(
            Share(
                agreement_id=of_agreement.agreement_id,
                activity_id=None,
                amount_wei=wire.read_amount(of_agreement.amount, "amount"),
            )
        )
    for of_activity in body.activity_payments:
        agreement_id = ledger.agreement_of_activity(c, body.payee_id, "P", of_activity.activity_id)
        if agreement_id is None:
            raise BadRequest(f"activity {of_activity.activity_id[:128]} is not known here")
        _check_agreement(c, body, agreement_id)
        shares.append(
            Share(
                agreement_id=agreement_id,
                activity_id=of_activity.activity_id,
                amount_wei=wire.read_amount(of_activity.amount, "amount"),
            )
        )
    keys = {(share.agreement_id, share.activity_id) for share in shares}
    if len(keys) != len(shares):
        raise BadRequest("the payment names an agreement or activity twice")
    return tuple(shares)


def _check_agreement(c: Connection, body: PaymentBody, agreement_id: str) -> None:
    facts = ledger.agreement(c, body.payee_id, "P", agreement_id)
    if facts is None or facts.requestor_id != body.payer_id:
        raise BadRequest(f"agreement {agreement_id[:128]} is not one between the payer and the payee")
    stated = (body.payment_platform, body.payer_addr, body.payee_addr)
    if stated != (facts.platform, facts.payer_addr, facts.payee_addr):
        raise BadRequest(f"agreement {agreement_id} is not settled by {stated}")


def _settle(entry: Entry, payment: Payment) -> None:
    for agreement_id in sorted({share.agreement_id for share in payment.shares}):
        mine = [share for share in payment.shares if share.agreement_id == agreement_id]
        with ledger.changing(entry.c, payment.owner, "P", agreement_id, entry.now_ns) as totals:
            for share in mine:
                totals.receive(share.activity_id, share.amount_wei)
            touched = sorted({share.activity_id for share in mine if share.activity_id is not None})
            settle(entry, payment.owner, "P", agreement_id, totals, touched)
    entry.publish(
        PaymentSettled(
            owner=payment.owner,
            payment_id=payment.payment_id,
            peer=payment.peer,
            platform=payment.platform,
            amount=format_amount(payment.amount_wei),
            tx_hash=payment.tx_hash,
        )
    )


def _take_back(entry: Entry, payment: Payment) -> None:
    driver, network = payment.platform.split("-")[0], network_name(payment.platform)
    trouble = Trouble(kind="TxStuck", driver=driver, network=network, address=payment.payer_addr)
    for agreement_id in sorted({share.agreement_id for share in payment.shares}):
        with ledger.changing(entry.c, payment.owner, "P", agreement_id, entry.now_ns) as totals:
            for share in payment.shares:
                if share.agreement_id == agreement_id:
                    totals.take_back(share.activity_id, share.amount_wei)
            reopen(entry, payment.owner, "P", agreement_id, totals, trouble)
    entry.publish(
        PaymentTaken(
            owner=payment.owner,
            payment_id=payment.payment_id,
            peer=payment.peer,
            platform=payment.platform,
            amount=format_amount(payment.amount_wei),
        )
    )
