"""Two nodes and a chain: from the first bill to the settled invoice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocols.payment.records import Status
from tests.protocols.payment.world import DEVNET, GLM, RICH, Node, World, until

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
