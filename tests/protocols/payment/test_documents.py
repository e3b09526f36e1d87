"""Bills and answers between two nodes: idempotent, in any order, and only by those whose bills they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from p2p import codec
from p2p.bus import RemoteError, net_address
from protocols.payment import wire
from protocols.payment.errors import (
    AmountMismatch,
    BadRequest,
    NotEnoughFunds,
    NotFound,
    NotYours,
    PeerRefused,
    PeerSilent,
    WrongState,
)
from protocols.payment.messages import (
    Acceptance,
    AcceptDebitNote,
    AcceptInvoice,
    CancelInvoice,
    RejectInvoice,
    SendDebitNote,
)
from protocols.payment.messages import Rejection as RejectionMessage
from protocols.payment.records import Rejection, Status
from tests.protocols.payment.world import DEVNET, GLM, Deal, Node, World, deal, until

if TYPE_CHECKING:
    import msgspec
    from trio.testing import MockClock

ALL = frozenset({"RECEIVED", "ACCEPTED", "REJECTED", "CANCELLED", "SETTLED"})


async def tell(sender: Node, receiver: Node, message: msgspec.Struct) -> None:
    """Send a message as a node, behind its payment protocol's back."""
    address = f"{net_address(receiver.id, 'payment')}/{type(message).__name__}"
    await sender.bus.call(address, codec.encode(message))


# --- providers ----------------------------------------------------------------------------------------------


async def test_notes_form_a_chain_and_the_requestor_sees_the_same(autojump_clock: MockClock) -> None:
    async with deal() as d:
        first = await d.note(GLM)
        second = await d.note(2 * GLM, due_ns=d.world.clock.utc_ns() + 10**12)
        mine, theirs = (
            await d.p.debit_note(d.provider.id, second),
            await d.r.debit_note(d.requestor.id, second),
        )
        assert (mine.previous_id, theirs.previous_id) == (first, first)
        assert (mine.number, theirs.number) == (1, 1)
        assert mine.due_ns == theirs.due_ns
        assert (mine.status, theirs.status) == (Status.RECEIVED, Status.RECEIVED)
        assert theirs.peer == d.provider.id


async def test_only_the_provider_bills(autojump_clock: MockClock) -> None:
    async with deal() as d:
        with pytest.raises(NotYours):
            await d.r.issue_debit_note(d.requestor.id, activity_id="act1", total_due_wei=1)
        with pytest.raises(NotYours):
            await d.r.issue_invoice(d.requestor.id, agreement_id="a1", amount_wei=1)
        with pytest.raises(BadRequest, match=r"^Activity not found: nope$"):
            await d.p.issue_debit_note(d.provider.id, activity_id="nope", total_due_wei=1)
        with pytest.raises(BadRequest):
            await d.p.issue_invoice(d.provider.id, agreement_id="nope", amount_wei=1)


@pytest.mark.parametrize("amount", [-1, 2**96])
async def test_amounts_out_of_range(amount: int, autojump_clock: MockClock) -> None:
    async with deal() as d:
        with pytest.raises(BadRequest):
            await d.p.issue_debit_note(d.provider.id, activity_id="act1", total_due_wei=amount)


async def test_usage_out_of_bounds(autojump_clock: MockClock) -> None:
    async with deal() as d:
        for usage in ([0.0] * 65, "x" * 10_000):
            with pytest.raises(BadRequest):
                await d.p.issue_debit_note(d.provider.id, activity_id="act1", total_due_wei=1, usage=usage)


async def test_an_invoice_covers_the_notes_and_knows_its_activities(autojump_clock: MockClock) -> None:
    async with deal() as d:
        await d.note(3 * GLM)
        with pytest.raises(BadRequest, match="below"):
            await d.p.issue_invoice(d.provider.id, agreement_id="a1", amount_wei=2 * GLM)
        d.world.activities["other"] = "a2"
        with pytest.raises(BadRequest, match="does not belong"):
            await d.p.issue_invoice(
                d.provider.id, agreement_id="a1", amount_wei=4 * GLM, activity_ids=["other"]
            )


async def test_sending_again_does_nothing(autojump_clock: MockClock) -> None:
    async with deal() as d:
        id_ = await d.note(GLM)
        await d.p.send_debit_note(d.provider.id, id_)
        note = await d.p.debit_note(d.provider.id, id_)
        await tell(d.provider, d.requestor, wire.debit_note_message(note))
        assert len(await d.r.debit_notes(d.requestor.id)) == 1
        assert len(await d.r.document_events(d.requestor.id, "debit_note")) == 1
        with pytest.raises(NotFound):
            await d.p.send_debit_note(d.provider.id, "nope")


async def test_a_silent_requestor_gets_the_bill_when_it_is_back(autojump_clock: MockClock) -> None:
    world = World()
    requestor, provider = Node(world, "requestor"), Node(world, "provider")
    world.agree(requestor, provider)
    async with provider.running() as p:
        note = await p.issue_debit_note(provider.id, activity_id="act1", total_due_wei=GLM)
        with pytest.raises(PeerSilent):
            await p.send_debit_note(provider.id, note.debit_note_id, timeout=2)
        async with requestor.running() as r:
            found = await r.document_events(requestor.id, "debit_note", timeout=700)
            assert [event.event for event in found] == ["RECEIVED"]

            async def received() -> bool:
                return (await p.debit_note(provider.id, note.debit_note_id)).status is Status.RECEIVED

            await until(received)


async def test_the_requestors_refusal_reaches_the_sender(autojump_clock: MockClock) -> None:
    async with deal() as d:
        note = await d.p.issue_debit_note(d.provider.id, activity_id="act1", total_due_wei=1)
        del d.world.agreements["a1"]  # the requestor's node has lost it
        with pytest.raises(PeerRefused, match="not found"):
            await d.p.send_debit_note(d.provider.id, note.debit_note_id)
        assert (await d.p.debit_note(d.provider.id, note.debit_note_id)).status is Status.ISSUED


async def test_cancelling(autojump_clock: MockClock) -> None:
    async with deal() as d:
        id_ = await d.invoice(5 * GLM)
        await d.p.cancel_invoice(d.provider.id, id_)
        await d.p.cancel_invoice(d.provider.id, id_)
        for service, node in ((d.p, d.provider), (d.r, d.requestor)):
            assert (await service.invoice(node.id, id_)).status is Status.CANCELLED
            (row,) = await service.agreement_ledger(node.id)
            assert row.totals.due == 0
        with pytest.raises(WrongState, match=r"^Invoice cancelled$"):
            await d.accept_invoice(id_, 5 * GLM)
        again = await d.invoice(4 * GLM)
        await d.accept_invoice(again, 4 * GLM)
        with pytest.raises(WrongState):
            await d.p.cancel_invoice(d.provider.id, again)
        await d.clean()


async def test_cancelling_what_was_accepted_meanwhile_is_a_conflict(autojump_clock: MockClock) -> None:
    async with deal() as d:
        id_ = await d.invoice(5 * GLM)
        d.world.overlays.cut(d.requestor.id, d.provider.id)
        await d.accept_invoice(id_, 5 * GLM)  # the provider does not hear of it yet
        d.world.overlays.heal()
        with pytest.raises(WrongState):
            await d.p.cancel_invoice(d.provider.id, id_)
        await d.settled(id_)


async def test_cancelling_an_invoice_that_never_arrived(autojump_clock: MockClock) -> None:
    async with deal() as d:
        invoice = await d.p.issue_invoice(d.provider.id, agreement_id="a1", amount_wei=GLM)
        await d.p.cancel_invoice(d.provider.id, invoice.invoice_id)
        assert (await d.p.invoice(d.provider.id, invoice.invoice_id)).status is Status.CANCELLED
        assert await d.r.invoices(d.requestor.id) == []


# --- requestors ---------------------------------------------------------------------------------------------


async def test_fifty_accept_at_once_and_it_is_spent_once(autojump_clock: MockClock) -> None:
    async with deal() as d:
        id_ = await d.note(3 * GLM)
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(d.accept_note, id_, 3 * GLM)
        allocation = await d.r.allocation(d.requestor.id, d.allocation_id)
        assert allocation.spent_wei == 3 * GLM
        accepted = await d.r.document_events(d.requestor.id, "debit_note", requestor_events={"ACCEPTED"})
        assert len(accepted) == 1
        await d.clean()


@pytest.mark.parametrize("invoice_first", [True, False])
async def test_note_and_invoice_in_either_order_cost_the_same(
    invoice_first: bool, autojump_clock: MockClock
) -> None:
    async with deal() as d:
        note, invoice = await d.note(3 * GLM), await d.invoice(5 * GLM)
        steps: list[Any] = [(d.accept_note, note, 3 * GLM), (d.accept_invoice, invoice, 5 * GLM)]
        for step, *arguments in reversed(steps) if invoice_first else steps:
            await step(*arguments)
        await d.settled(invoice)
        assert d.world.on_chain(d.provider) == 5 * GLM
        assert (await d.r.allocation(d.requestor.id, d.allocation_id)).spent_wei == 5 * GLM
        await trio.sleep(30)
        assert d.world.on_chain(d.provider) == 5 * GLM
        assert (await d.p.debit_note(d.provider.id, note)).status is Status.SETTLED
        await d.clean()


async def test_notes_out_of_order(autojump_clock: MockClock) -> None:
    async with deal() as d:
        low, high = await d.note(GLM), await d.note(4 * GLM)
        await d.accept_note(high, 4 * GLM)
        await d.accept_note(low, GLM)
        assert (await d.r.allocation(d.requestor.id, d.allocation_id)).spent_wei == 4 * GLM
        await d.clean()


async def test_accepting_again_needs_no_allocation(autojump_clock: MockClock) -> None:
    async with deal() as d:
        note = await d.note(GLM)
        await d.accept_note(note, GLM)
        await d.r.release_allocation(d.requestor.id, d.allocation_id)
        await d.accept_note(note, GLM)
        await d.allocate()
        invoice = await d.accepted_invoice(2 * GLM)
        await d.r.release_allocation(d.requestor.id, d.allocation_id)
        await d.accept_invoice(invoice, 2 * GLM)


async def test_an_accepted_invoice_is_the_last_word(autojump_clock: MockClock) -> None:
    async with deal() as d:
        await d.accept_invoice(await d.invoice(5 * GLM), 5 * GLM)
        late = await d.note(9 * GLM)
        await d.accept_note(late, 9 * GLM)  # taken, and without consequence
        assert (await d.r.debit_note(d.requestor.id, late)).status is Status.RECEIVED
        assert (await d.r.allocation(d.requestor.id, d.allocation_id)).spent_wei == 5 * GLM
        await d.clean()


async def test_what_cannot_be_accepted(autojump_clock: MockClock) -> None:
    async with deal() as d:
        id_ = await d.note(3 * GLM)
        with pytest.raises(AmountMismatch):
            await d.accept_note(id_, 2 * GLM)
        small = await d.r.create_allocation(d.requestor.id, platform=DEVNET, total_wei=GLM)
        for allocation_id, wrong in (("nope", BadRequest), (small.allocation_id, NotEnoughFunds)):
            with pytest.raises(wrong):
                await d.r.accept_debit_note(
                    d.requestor.id, id_, amount_wei=3 * GLM, allocation_id=allocation_id
                )
        await d.r.release_allocation(d.requestor.id, small.allocation_id)
        with pytest.raises(BadRequest, match="not found"):
            await d.r.accept_debit_note(
                d.requestor.id, id_, amount_wei=3 * GLM, allocation_id=small.allocation_id
            )
        with pytest.raises(NotFound):
            await d.accept_note("nope", 3 * GLM)
        assert (await d.r.debit_note(d.requestor.id, id_)).status is Status.RECEIVED
        assert (await d.r.allocation(d.requestor.id, d.allocation_id)).spent_wei == 0


async def test_a_bill_of_nothing_is_settled_when_accepted(autojump_clock: MockClock) -> None:
    async with deal() as d:
        id_ = await d.note(0)
        await d.accept_note(id_, 0)
        events = await d.r.document_events(d.requestor.id, "debit_note", requestor_events=ALL)
        assert [event.event for event in events] == ["RECEIVED", "ACCEPTED", "SETTLED"]

        async def settled() -> bool:
            return (await d.p.debit_note(d.provider.id, id_)).status is Status.SETTLED

        await until(settled)


async def test_a_bill_of_nothing_is_not_settled_by_other_money(autojump_clock: MockClock) -> None:
    async with deal() as d:
        nothing, something = await d.note(0), await d.note(GLM)
        await d.accept_note(something, GLM)
        await d.r.process_now(d.requestor.id, DEVNET)

        async def settled() -> bool:
            return (await d.p.debit_note(d.provider.id, something)).status is Status.SETTLED

        await until(settled)
        for service, node in ((d.p, d.provider), (d.r, d.requestor)):
            assert (await service.debit_note(node.id, nothing)).status is Status.RECEIVED


async def test_rejecting_and_then_accepting(autojump_clock: MockClock) -> None:
    async with deal() as d:
        id_ = await d.invoice(5 * GLM)
        why = Rejection("INCORRECT_AMOUNT", 2 * GLM, "too much")
        await d.r.reject_invoice(d.requestor.id, id_, why)
        await d.r.reject_invoice(d.requestor.id, id_, why)
        (event,) = await d.p.document_events(d.provider.id, "invoice", timeout=10)
        assert (event.event, event.rejection) == ("REJECTED", why)
        await d.accept_invoice(id_, 5 * GLM)
        await d.settled(id_)
        with pytest.raises(WrongState):
            await d.r.reject_invoice(d.requestor.id, id_, why)
        with pytest.raises(BadRequest):
            await d.r.reject_invoice(d.requestor.id, id_, Rejection("X", 0, "x" * 1001))


async def test_an_answer_waits_for_a_provider_that_is_away(autojump_clock: MockClock) -> None:
    world = World()
    requestor, provider = Node(world, "requestor", rich=True), Node(world, "provider")
    world.agree(requestor, provider)
    async with requestor.running() as r:
        async with provider.running() as p:
            d = Deal(world, requestor, provider, r, p)
            await d.allocate()
            invoice = await d.invoice(5 * GLM)
        await d.accept_invoice(invoice, 5 * GLM)  # answers at once: the outbox has it

        async def paid() -> bool:
            return world.on_chain(provider) == 5 * GLM

        await until(paid)
        await trio.sleep(3600)
        async with provider.running() as p:
            d.p = p
            await d.settled(invoice)
            events = await p.document_events(provider.id, "invoice")
            assert [event.event for event in events] == ["ACCEPTED", "SETTLED"]
            assert len(await p.payments(provider.id)) == 1
            await d.clean()


# --- events -------------------------------------------------------------------------------------------------


async def test_events_are_told_apart_by_role_kind_session_and_time(autojump_clock: MockClock) -> None:
    async with deal(session_id="mine") as d:
        note = await d.note(GLM)
        invoice = await d.invoice(2 * GLM)
        both = await d.r.document_events(d.requestor.id, "invoice", session_id="mine")
        assert [event.document_id for event in both] == [invoice]
        assert not await d.r.document_events(d.requestor.id, "invoice", session_id="")
        assert not await d.r.document_events(d.requestor.id, "debit_note", requestor_events=())
        (first,) = await d.r.document_events(d.requestor.id, "debit_note")
        assert first.document_id == note
        assert first.time_ns % 1000 == 0
        assert not await d.r.document_events(d.requestor.id, "debit_note", after_ns=first.time_ns)
        assert await d.r.document_events(d.requestor.id, "debit_note", after_ns=first.time_ns - 1000)
        assert not await d.r.document_events(d.requestor.id, "debit_note", limit=0)
        assert not await d.p.document_events(d.provider.id, "debit_note")


async def test_no_two_events_have_one_time(autojump_clock: MockClock) -> None:
    async with deal() as d:
        for n in range(1, 20):
            await d.accept_note(await d.note(n), n)
        times = [
            e.time_ns for e in await d.r.document_events(d.requestor.id, "debit_note", requestor_events=ALL)
        ]
        assert len(times) == len(set(times)) == 38
        assert times == sorted(times)


async def test_a_poll_wakes_with_the_commit_and_gives_up_in_time(autojump_clock: MockClock) -> None:
    async with deal() as d:
        before = trio.current_time()
        assert not await d.r.document_events(d.requestor.id, "invoice", timeout=5)
        assert trio.current_time() - before == pytest.approx(5)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(d.invoice, GLM)
            assert await d.r.document_events(d.requestor.id, "invoice", timeout=5)


# --- strangers and liars ------------------------------------------------------------------------------------


async def test_strangers_cannot_speak_of_others_documents(autojump_clock: MockClock) -> None:
    world = World()
    async with deal(world) as d:
        stranger = Node(world, "stranger")
        note = await d.p.issue_debit_note(d.provider.id, activity_id="act1", total_due_wei=GLM)
        invoice = await d.invoice(2 * GLM)
        acceptance = Acceptance("2")
        async with stranger.running():
            for receiver, message, kind in (
                (d.requestor, wire.debit_note_message(note), "forbidden"),
                (d.requestor, CancelInvoice(invoice, d.requestor.id), "forbidden"),
                (d.provider, AcceptInvoice(invoice, acceptance, d.provider.id), "forbidden"),
                (
                    d.provider,
                    AcceptDebitNote(note.debit_note_id, Acceptance("1"), d.provider.id),
                    "forbidden",
                ),
                (
                    d.provider,
                    RejectInvoice(invoice, RejectionMessage("BAD_SERVICE", "0"), d.provider.id),
                    "forbidden",
                ),
                (d.provider, AcceptInvoice("nope", acceptance, d.provider.id), "notFound"),
            ):
                with pytest.raises(RemoteError) as refusal:
                    await tell(stranger, receiver, message)
                assert refusal.value.kind == kind, message
        assert (await d.p.invoice(d.provider.id, invoice)).status is Status.RECEIVED


@pytest.mark.parametrize(
    "change",
    [
        {"total_amount_due": "-1"},
        {"total_amount_due": "1e99"},
        {"total_amount_due": "NaN"},
        {"total_amount_due": "0.0000000000000000001"},
        {"payment_due_date": "tomorrow"},
        {"payment_due_date": "0001-01-01T00:00:00Z"},
        {"payment_platform": "erc20-hoodi-tglm"},
        {"payee_addr": "0x" + "11" * 20},
        {"payer_addr": "0x" + "11" * 20},
        {"payer_addr": "0x"},
        {"agreement_id": "a2"},
        {"activity_id": "../x"},
        {"debit_note_id": ""},
        {"debit_note_id": "x" * 129},
        {"usage_counter_vector": [1.0] * 65},
        {"recipient_id": "0x" + "11" * 20},
        {"issuer_id": "0x" + "11" * 20},
    ],
)
async def test_bills_that_lie_or_make_no_sense(change: dict[str, Any], autojump_clock: MockClock) -> None:
    async with deal() as d:
        note = await d.p.issue_debit_note(d.provider.id, activity_id="act1", total_due_wei=GLM)
        message: dict[str, Any] = {
            field: getattr(wire.debit_note_message(note), field) for field in SendDebitNote.__struct_fields__
        }
        with pytest.raises(RemoteError) as refusal:
            await tell(d.provider, d.requestor, SendDebitNote(**message | change))
        assert refusal.value.kind in ("badRequest", "forbidden", "notFound")
        assert await d.r.debit_notes(d.requestor.id) == []
        assert await d.r.agreement_ledger(d.requestor.id) == []


async def test_the_same_id_with_another_content_is_refused(autojump_clock: MockClock) -> None:
    async with deal() as d:
        id_ = await d.note(GLM)
        note = await d.p.debit_note(d.provider.id, id_)
        forged = wire.debit_note_message(note).__class__(
            **{
                field: getattr(wire.debit_note_message(note), field)
                for field in SendDebitNote.__struct_fields__
            }
            | {"total_amount_due": "2"}
        )
        with pytest.raises(RemoteError, match="different document"):
            await tell(d.provider, d.requestor, forged)
        assert (await d.r.debit_note(d.requestor.id, id_)).total_due_wei == GLM


async def test_an_activity_of_another_agreement_cannot_be_billed(autojump_clock: MockClock) -> None:
    world = World()
    async with deal(world) as d:
        world.agree(d.requestor, d.provider, "a2", activities=("act2",))
        note = await d.p.issue_debit_note(d.provider.id, activity_id="act1", total_due_wei=GLM)
        message = wire.debit_note_message(note)
        fields = {field: getattr(message, field) for field in SendDebitNote.__struct_fields__}
        with pytest.raises(RemoteError, match="does not belong"):
            await tell(d.provider, d.requestor, SendDebitNote(**fields | {"agreement_id": "a2"}))


async def test_an_acceptance_of_another_amount_is_refused(autojump_clock: MockClock) -> None:
    async with deal() as d:
        id_ = await d.note(2 * GLM)
        for amount, kind in (("1", "badRequest"), ("x", "badRequest")):
            with pytest.raises(RemoteError) as refusal:
                await tell(d.requestor, d.provider, AcceptDebitNote(id_, Acceptance(amount), d.provider.id))
            assert refusal.value.kind == kind
        await tell(d.requestor, d.provider, AcceptDebitNote(id_, Acceptance("2.0"), d.provider.id))
        assert (await d.p.debit_note(d.provider.id, id_)).status is Status.ACCEPTED


async def test_cancelling_while_the_requestor_is_away(autojump_clock: MockClock) -> None:
    async with deal() as d:
        d.world.overlays.cut(d.requestor.id, d.provider.id)
        invoice = await d.p.issue_invoice(d.provider.id, agreement_id="a1", amount_wei=GLM)
        with pytest.raises(PeerSilent):
            await d.p.send_invoice(d.provider.id, invoice.invoice_id, timeout=1)
        with pytest.raises(PeerSilent):
            await d.p.cancel_invoice(d.provider.id, invoice.invoice_id, timeout=1)
        d.world.overlays.heal()

        async def cancelled() -> bool:
            found = await d.r.invoices(d.requestor.id)
            return bool(found) and found[0].status is Status.CANCELLED

        await until(cancelled)
        assert (await d.p.invoice(d.provider.id, invoice.invoice_id)).status is Status.CANCELLED
