"""Two nodes and a chain: from the first bill to the settled invoice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from p2p import codec
from p2p.bus import BusError, Caller, RemoteError, ask, net_address
from p2p.identity import PrivateKey
from p2p.storage import StorageFull
from protocols.payment.events import (
    TOPIC,
    AllocationChanged,
    DocumentChanged,
    PaymentEvent,
    PaymentMade,
    PaymentSettled,
    decode_event,
)
from protocols.payment.messages import (
    LOCAL_SERVICE,
    AgreementTotals,
    GetAgreementTotals,
    Issued,
    IssueDebitNote,
    IssueInvoice,
)
from protocols.payment.records import Status
from protocols.payment.settings import Settings
from tests.protocols.payment.world import DEVNET, GLM, RICH, Deal, Node, World, deal, until

if TYPE_CHECKING:
    from trio.testing import MockClock


async def test_a_job_is_billed_accepted_paid_and_settled_on_both_sides(autojump_clock: MockClock) -> None:
    world = World()
    requestor, provider = Node(world, "requestor", rich=True), Node(world, "provider")
    world.agree(requestor, provider)
    async with requestor.running() as r, provider.running() as p:
        allocation = await r.create_allocation(requestor.id, platform=DEVNET, total_wei=10 * GLM)
        seen: int | None = None
        for n in (1, 2, 3):
            note = await p.issue_debit_note(
                provider.id, activity_id="act1", total_due_wei=n * GLM, usage=[n, 2.0 * n]
            )
            await p.send_debit_note(provider.id, note.debit_note_id)
            (event,) = await r.document_events(requestor.id, "debit_note", after_ns=seen, timeout=5)
            seen = event.time_ns
            assert event.event == "RECEIVED"
            assert event.document_id == note.debit_note_id
            await r.accept_debit_note(
                requestor.id, note.debit_note_id, amount_wei=n * GLM, allocation_id=allocation.allocation_id
            )
        invoice = await p.issue_invoice(
            provider.id, agreement_id="a1", amount_wei=4 * GLM, activity_ids=["act1"]
        )
        await p.send_invoice(provider.id, invoice.invoice_id)
        await r.accept_invoice(
            requestor.id, invoice.invoice_id, amount_wei=4 * GLM, allocation_id=allocation.allocation_id
        )

        async def settled() -> bool:
            return (await p.invoice(provider.id, invoice.invoice_id)).status is Status.SETTLED

        await until(settled)
        assert world.on_chain(provider) == 4 * GLM
        assert world.on_chain(requestor) == RICH - 4 * GLM
        assert (await r.invoice(requestor.id, invoice.invoice_id)).status is Status.SETTLED
        assert {n.status for n in await p.debit_notes(provider.id)} == {Status.SETTLED}
        (row,) = await p.agreement_ledger(provider.id)
        assert (row.totals.due, row.totals.accepted, row.totals.paid) == (4 * GLM, 4 * GLM, 4 * GLM)
        spent = await r.allocation(requestor.id, allocation.allocation_id)
        assert (spent.spent_wei, spent.remaining_wei) == (4 * GLM, 6 * GLM)
        assert (await r.audit()).clean, await r.audit()
        assert (await p.audit()).clean, await p.audit()


async def test_what_happens_is_published(autojump_clock: MockClock) -> None:
    async with (
        deal() as d,
        d.provider.bus.subscribe(TOPIC) as theirs,
        d.requestor.bus.subscribe(TOPIC) as ours,
    ):
        note = await d.note(2 * GLM)
        await d.accept_note(note, 2 * GLM)
        await d.settled(await d.accepted_invoice(5 * GLM))
        seen: list[PaymentEvent] = []
        for items in (theirs, ours):
            with trio.move_on_after(1):
                async for item in items:
                    seen.append(decode_event(item))  # noqa: PERF401 - the timeout ends the loop
        changes = [
            e for e in seen if isinstance(e, DocumentChanged) and e.document_id == note and e.role == "P"
        ]
        assert [e.status for e in changes] == ["ISSUED", "RECEIVED", "ACCEPTED", "SETTLED"]
        assert {e.amount for e in changes} == {"2"}
        (made,) = (e for e in seen if isinstance(e, PaymentMade))
        (settled,) = (e for e in seen if isinstance(e, PaymentSettled))
        assert (made.amount, made.tx_hash) == (settled.amount, settled.tx_hash)
        remaining = [e.remaining for e in seen if isinstance(e, AllocationChanged)]
        assert remaining == ["98", "95"]


async def test_programs_of_the_node_bill_by_the_bus_and_peers_do_not(autojump_clock: MockClock) -> None:
    async with deal() as d:
        bus = d.provider.bus
        note = await ask(bus, LOCAL_SERVICE, IssueDebitNote("act1", "2", usage_counter_vector=[1.0]), Issued)
        invoice = await ask(bus, LOCAL_SERVICE, IssueInvoice("a1", "3", ("act1",)), Issued)

        async def received() -> bool:
            found = await d.p.invoice(d.provider.id, invoice.document_id)
            return found.status is Status.RECEIVED

        await until(received)
        assert (await d.r.debit_note(d.requestor.id, note.document_id)).usage == [1.0]
        totals = await ask(bus, LOCAL_SERVICE, GetAgreementTotals("a1"), AgreementTotals)
        assert (totals.due, totals.accepted) == ("3", "0")
        with pytest.raises(RemoteError):
            await ask(bus, LOCAL_SERVICE, IssueDebitNote("act1", "x"), Issued)
        with pytest.raises(BusError):
            await d.requestor.bus.call(
                f"{net_address(d.provider.id, 'payment')}/IssueDebitNote",
                codec.encode(IssueDebitNote("act1", "9")),
            )
        supervisor = Caller(d.provider.id, local=True, child="activity")
        with pytest.raises(RemoteError):
            await bus.call_as(
                supervisor,
                f"{LOCAL_SERVICE}/IssueDebitNote",
                codec.encode(IssueDebitNote("act1", "9")),
                timeout=5,
            )


async def test_one_node_on_both_sides_of_an_agreement(autojump_clock: MockClock) -> None:
    world = World()
    node = Node(world, "node", rich=True)
    world.agree(node, node)
    async with node.running() as service:
        d = Deal(world, node, node, service, service)
        await d.allocate()
        await d.accept_note(await d.note(2 * GLM), 2 * GLM)
        invoice = await d.accepted_invoice(5 * GLM)

        async def both_settled() -> bool:
            rows = await service.agreement_ledger(node.id)
            return [row.totals.paid for row in rows] == [5 * GLM, 5 * GLM]

        await until(both_settled)
        assert (await service.invoice(node.id, invoice)).status is Status.SETTLED
        assert len(await service.payments(node.id)) == 2
        await d.clean()


async def test_a_full_disk_is_waited_out(autojump_clock: MockClock) -> None:
    world = World()
    requestor, provider = Node(world, "requestor", rich=True), Node(world, "provider")
    world.agree(requestor, provider)
    full = [False]
    requestor.wrap_database = lambda database: Filling(database, full)  # type: ignore[assignment]
    async with requestor.running() as r, provider.running() as p:
        d = Deal(world, requestor, provider, r, p)
        await d.allocate()
        invoice = await d.accepted_invoice(5 * GLM)
        full[0] = True
        await trio.sleep(60)
        assert world.on_chain(provider) == 0
        full[0] = False
        await d.settled(invoice)
        assert world.on_chain(provider) == 5 * GLM


class Filling:
    """A database whose disk is full now and then."""

    def __init__(self, inner: Any, full: list[bool]) -> None:
        self._inner = inner
        self._full = full

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def write(self, f: Any, *, durable: bool = False) -> Any:
        if self._full[0]:
            await trio.lowlevel.checkpoint()
            raise StorageFull("the disk is full")
        return await self._inner.write(f, durable=durable)


async def test_a_wallet_apart_from_the_identity(autojump_clock: MockClock) -> None:
    world = World()
    requestor, provider = Node(world, "requestor"), Node(world, "provider")
    wallet = PrivateKey.generate(world.entropy)
    requestor.keys[wallet.node_id] = wallet
    world.chain.give(wallet.node_id, coin_wei=RICH, token_wei=RICH)
    world.agree(requestor, provider, payer_addr=wallet.node_id)
    async with requestor.running() as r, provider.running() as p:
        d = Deal(world, requestor, provider, r, p)
        made = await r.create_allocation(
            requestor.id, platform=DEVNET, total_wei=9 * GLM, address=wallet.node_id.upper().replace("X", "x")
        )
        d.allocation_id = made.allocation_id
        await d.settled(await d.accepted_invoice(5 * GLM))
        assert world.chain.account(wallet.node_id).token_wei == RICH - 5 * GLM
        (payment,) = await p.payments(provider.id)
        assert (payment.payer_id, payment.payer_addr) == (requestor.id, wallet.node_id)
        await d.clean()


async def test_accounts_from_the_start(autojump_clock: MockClock) -> None:
    node = Node(World(), "node")
    node.settings = Settings(accounts=(str(DEVNET),))
    async with node.running() as service:
        (account,) = await service.accounts(node.id)
        assert (account.platform, account.send, account.receive) == (str(DEVNET), True, True)
