"""What a payee takes for a payment: what the payer signed and the chain shows, deep enough, and only once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio

from p2p import codec
from p2p.bus import RemoteError, net_address
from protocols.ground.money import format_amount
from protocols.payment.core import receipts
from protocols.payment.drivers.base import Transfer
from protocols.payment.messages import ActivityShare, AgreementShare, PaymentBody, SendPayment
from protocols.payment.networks import NETWORKS
from protocols.payment.records import PaymentState, Status
from protocols.payment.testing import ModelDriver
from tests.protocols.payment.world import DEVNET, GLM, Deal, Node, World, deal, until

if TYPE_CHECKING:
    from trio.testing import MockClock

DEEP = msgspec.structs.replace(NETWORKS["devnet"], confirmations=3)


class Payer:
    """A requestor's key in hand: transfers, and what is said about them, true or not."""

    def __init__(self, d: Deal) -> None:
        self.d = d
        self.driver = ModelDriver(d.world.chain)

    async def transfer(self, amount: int, *, to: str = "", by: Node | None = None) -> str:
        """Move tokens on the chain and return the transaction."""
        node = by or self.d.requestor
        nonce = await self.driver.next_nonce(node.id)
        signed = await self.driver.prepare([Transfer("t", to or self.d.provider.id, amount)], nonce, node.key)
        for one in signed:
            await self.driver.broadcast(one.raw)
        return signed[-1].tx_hash

    def body(self, tx_hash: str, amount: int, **changes: Any) -> PaymentBody:
        fields: dict[str, Any] = {
            "payment_id": "9" * 32,
            "payer_id": self.d.requestor.id,
            "payee_id": self.d.provider.id,
            "payer_addr": self.d.requestor.id,
            "payee_addr": self.d.provider.id,
            "payment_platform": str(DEVNET),
            "amount": format_amount(amount),
            "timestamp": "2026-01-01T00:00:00Z",
            "agreement_payments": (AgreementShare("a1", format_amount(amount)),),
            "activity_payments": (),
            "details": receipts.details_of(tx_hash),
        }
        return PaymentBody(**fields | changes)

    async def say(self, body: PaymentBody, *, by: Node | None = None, signer: Node | None = None) -> None:
        data = receipts.canonical_bytes(body)
        message = SendPayment(data, receipts.sign((signer or self.d.requestor).key, data))
        address = f"{net_address(self.d.provider.id, 'payment')}/SendPayment"
        await (by or self.d.requestor).bus.call(address, codec.encode(message))

    async def refused(self, body: PaymentBody, kind: str = "badRequest", **who: Any) -> str:
        with pytest.raises(RemoteError) as refusal:
            await self.say(body, **who)
        assert refusal.value.kind == kind, refusal.value
        return str(refusal.value)


async def billed(d: Deal) -> str:
    """Bill five tokens, with nobody who accepts or pays."""
    return await d.invoice(5 * GLM)


async def test_an_honest_payment_settles_even_before_its_acceptance(autojump_clock: MockClock) -> None:
    async with deal() as d:
        payer, invoice = Payer(d), await billed(d)
        await payer.say(payer.body(await payer.transfer(5 * GLM), 5 * GLM))
        assert (await d.p.invoice(d.provider.id, invoice)).status is Status.SETTLED
        (payment,) = await d.p.payments(d.provider.id)
        assert payment.amount_wei == 5 * GLM
        assert (await d.p.invoice_payments(d.provider.id, invoice)) == [payment]
        await d.clean()


async def test_saying_it_again_counts_once(autojump_clock: MockClock) -> None:
    async with deal() as d:
        payer, invoice = Payer(d), await billed(d)
        body = payer.body(await payer.transfer(2 * GLM), 2 * GLM)
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(payer.say, body)
        await payer.say(body)
        (row,) = await d.p.agreement_ledger(d.provider.id)
        assert row.totals.paid == 2 * GLM
        assert (await d.p.invoice(d.provider.id, invoice)).status is Status.RECEIVED
        assert len(await d.p.payments(d.provider.id)) == 1


async def test_forgeries_settle_nothing(autojump_clock: MockClock) -> None:
    world = World()
    async with deal(world) as d:
        payer, invoice = Payer(d), await billed(d)
        stranger = Node(world, "stranger", rich=True)
        world.agree(stranger, d.provider, "a9", activities=("act9",))
        world.agree(stranger, d.provider, "a7", activities=("act7",), payer_addr=d.requestor.id)
        async with stranger.running():
            good = await payer.transfer(5 * GLM)
            to_stranger = await payer.transfer(5 * GLM, to=stranger.id)
            by_stranger = await payer.transfer(5 * GLM, by=stranger)
            small = await payer.transfer(GLM)
            world.chain.failing.add(d.requestor.id)
            failed = await payer.transfer(5 * GLM)
            world.chain.failing.clear()
            for agreement_id in ("a7", "a9"):
                await d.invoice(5 * GLM, agreement_id)
            for body, who in (
                (payer.body(good, 5 * GLM), {"signer": stranger}),  # another's signature
                (payer.body(to_stranger, 5 * GLM), {}),  # money for another
                (payer.body(by_stranger, 5 * GLM), {}),  # another's money
                (payer.body(small, 5 * GLM), {}),  # less than said
                (payer.body(failed, 5 * GLM), {}),  # reverted
                (payer.body(good, 6 * GLM), {}),  # split exceeds what came
                (payer.body(good, GLM, agreement_payments=(AgreementShare("a9", "1"),)), {}),
                (payer.body(good, GLM, agreement_payments=(AgreementShare("a7", "1"),)), {}),
                (payer.body(good, GLM, agreement_payments=(AgreementShare("a8", "1"),)), {}),
                (
                    payer.body(
                        good, GLM, agreement_payments=(), activity_payments=(ActivityShare("act9", "1"),)
                    ),
                    {},
                ),
                (payer.body(good, GLM, payment_platform="erc20-hoodi-tglm"), {}),
                (payer.body(good, GLM, payer_addr=stranger.id), {}),
                (payer.body(good, GLM, payee_addr=stranger.id), {}),
                (payer.body(good, 0, agreement_payments=(AgreementShare("a1", "0"),)), {}),
                (
                    payer.body(
                        good,
                        2 * GLM,
                        agreement_payments=(AgreementShare("a1", "1"), AgreementShare("a1", "1")),
                    ),
                    {},
                ),
                (payer.body(good, GLM, details="AAAA"), {}),
                (payer.body(good, GLM, payment_id="../x"), {}),
            ):
                await payer.refused(body, **who)
            await payer.refused(payer.body(good, 5 * GLM), "forbidden", by=stranger)
            await payer.refused(payer.body(good, 5 * GLM, payee_id=stranger.id), "forbidden")
        assert await d.p.payments(d.provider.id) == []
        assert {row.totals.paid for row in await d.p.agreement_ledger(d.provider.id)} == {0}
        assert (await d.p.invoice(d.provider.id, invoice)).status is Status.RECEIVED
        await d.clean()


async def test_one_transaction_is_not_claimed_twice(autojump_clock: MockClock) -> None:
    async with deal() as d:
        payer = Payer(d)
        await billed(d)
        tx = await payer.transfer(3 * GLM)
        await payer.say(payer.body(tx, 2 * GLM))
        assert "claimed" in await payer.refused(payer.body(tx, 2 * GLM, payment_id="8" * 32))
        await payer.say(payer.body(tx, GLM, payment_id="8" * 32))
        assert "different payment" in await payer.refused(payer.body(tx, GLM))
        (row,) = await d.p.agreement_ledger(d.provider.id)
        assert row.totals.paid == 3 * GLM


async def test_a_chain_that_does_not_answer_rejects_nothing(autojump_clock: MockClock) -> None:
    async with deal() as d:
        payer, invoice = Payer(d), await billed(d)
        body = payer.body(await payer.transfer(5 * GLM), 5 * GLM)
        d.world.chain.available = False
        await payer.refused(body, "retry")
        d.world.chain.available = True
        await payer.refused(payer.body("0x" + "ab" * 32, 5 * GLM), "retry")  # not mined yet, for all we know
        await payer.say(body)
        assert (await d.p.invoice(d.provider.id, invoice)).status is Status.SETTLED


async def test_the_payer_says_it_again_until_the_payee_can_look(autojump_clock: MockClock) -> None:
    async with deal() as d:
        d.provider.wrap = None
        invoice = await d.invoice(5 * GLM)
        await d.accept_invoice(invoice, 5 * GLM)

        async def paid() -> bool:
            return bool(await d.r.payments(d.requestor.id))

        while not await paid():  # noqa: ASYNC110 - until the very moment of confirmation
            await trio.sleep(0.01)
        d.world.chain.available = False
        await trio.sleep(30)
        d.world.chain.available = True
        await d.settled(invoice)
        assert len(await d.p.payments(d.provider.id)) == 1


async def test_depth_is_waited_for(autojump_clock: MockClock) -> None:
    async with deal(World(DEEP)) as d:
        payer, invoice = Payer(d), await billed(d)
        await payer.say(payer.body(await payer.transfer(5 * GLM), 5 * GLM))
        assert await d.p.payments(d.provider.id) == []
        (payment,) = await d.p.payments(d.provider.id, pending=True)
        assert payment.state is PaymentState.SEEN
        assert (await d.p.invoice(d.provider.id, invoice)).status is Status.RECEIVED
        await d.clean()
        d.world.chain.mine()
        await trio.sleep(100)
        assert (await d.p.invoice(d.provider.id, invoice)).status is Status.RECEIVED
        d.world.chain.mine()
        await d.settled(invoice)
        (shown,) = await d.p.payments(d.provider.id, after_ns=payment.timestamp_ns)
        assert shown.state is PaymentState.CONFIRMED
        await d.clean()


async def test_what_a_reorganisation_takes_back_is_open_again(autojump_clock: MockClock) -> None:
    async with deal(World(DEEP)) as d:
        payer = Payer(d)
        note = await d.note(2 * GLM)
        invoice = await billed(d)
        body = payer.body(
            await payer.transfer(5 * GLM),
            5 * GLM,
            agreement_payments=(AgreementShare("a1", "3"),),
            activity_payments=(ActivityShare("act1", "2"),),
        )
        await payer.say(body)
        for _ in range(2):
            d.world.chain.mine()
        await d.settled(invoice)
        d.world.chain.take_back(3)

        async def open_again() -> bool:
            return (await d.p.invoice(d.provider.id, invoice)).status is Status.ACCEPTED

        await until(open_again)
        assert (await d.p.debit_note(d.provider.id, note)).status is Status.ACCEPTED
        (row,) = await d.p.agreement_ledger(d.provider.id)
        assert (row.totals.paid, row.totals.accepted) == (0, 5 * GLM)
        events = await d.p.document_events(
            d.provider.id, "invoice", provider_events={"SETTLED", "PAYMENT_EVENT"}
        )
        assert [event.event for event in events] == ["SETTLED", "PAYMENT_EVENT"]
        await d.clean()
        for _ in range(4):  # the transaction is mined again
            d.world.chain.mine()
        await d.settled(invoice)
        assert (await d.p.debit_note(d.provider.id, note)).status is Status.SETTLED
        await d.clean()


async def test_a_payment_becomes_final_and_is_looked_at_no_more(autojump_clock: MockClock) -> None:
    async with deal() as d:
        payer = Payer(d)
        await billed(d)
        await payer.say(payer.body(await payer.transfer(5 * GLM), 5 * GLM))

        async def final() -> bool:
            return (await d.p.payments(d.provider.id))[0].state is PaymentState.FINAL

        assert not await final()
        await until(final, within=10_000, every=60)
        d.world.chain.take_back(1)
        await trio.sleep(10_000)
        assert await final()


async def test_a_transaction_that_never_comes_back_is_forgotten(autojump_clock: MockClock) -> None:
    async with deal(World(DEEP)) as d:
        payer = Payer(d)
        await billed(d)
        await payer.say(payer.body(await payer.transfer(5 * GLM), 5 * GLM))
        d.world.chain.take_back(1, forget=True)

        async def forgotten() -> bool:
            return not await d.p.payments(d.provider.id, pending=True)

        await until(forgotten, within=200_000, every=600)
        await d.clean()


async def test_two_providers_with_one_wallet_each_get_their_split(autojump_clock: MockClock) -> None:
    world = World()
    requestor = Node(world, "requestor", rich=True)
    one, two = Node(world, "one"), Node(world, "two")
    wallet = "0x" + "77" * 20
    world.agree(requestor, one, "a1", activities=("x1",), payee_addr=wallet)
    world.agree(requestor, two, "a2", activities=("x2",), payee_addr=wallet)
    async with requestor.running() as r, one.running() as p1, two.running() as p2:
        d1, d2 = Deal(world, requestor, one, r, p1), Deal(world, requestor, two, r, p2)
        d2.allocation_id = await d1.allocate()
        first, second = await d1.invoice(3 * GLM, "a1"), await d2.invoice(4 * GLM, "a2")
        await d1.accept_invoice(first, 3 * GLM)
        await d2.accept_invoice(second, 4 * GLM)
        await d1.settled(first)
        await d2.settled(second)
        assert world.chain.account(wallet).token_wei == 7 * GLM
        (mine,), (theirs,) = await p1.payments(one.id), await p2.payments(two.id)
        assert (mine.amount_wei, theirs.amount_wei) == (3 * GLM, 4 * GLM)
        assert mine.tx_hash == theirs.tx_hash
        assert mine.payment_id == theirs.payment_id
        await d1.clean()
        await d2.clean()


async def test_a_receipt_can_be_checked_by_anyone(autojump_clock: MockClock) -> None:
    async with deal() as d:
        await d.accept_note(await d.note(2 * GLM), 2 * GLM)
        invoice = await d.accepted_invoice(5 * GLM)
        await d.settled(invoice)
        (payment,) = await d.p.payments(d.provider.id)
        body = receipts.read_payment(payment.signed_bytes, payment.signature)
        assert body.payer_id == d.requestor.id
        assert body.amount == "5"
        assert body.activity_payments == (ActivityShare("act1", "2"),)
        assert body.agreement_payments == (AgreementShare("a1", "3"),)
        assert receipts.transaction_hash(body) == payment.tx_hash
