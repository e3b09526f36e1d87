"""Catching up after a message was taken and then lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from p2p import codec
from p2p.bus import RemoteError, net_address
from p2p.storage import InlineDatabase
from protocols.payment.messages import (
    Acceptance,
    AcceptInvoice,
    PaymentSync,
    PaymentSyncNeeded,
    SendPayment,
    SyncResult,
)
from protocols.payment.records import Rejection, Status
from tests.protocols.payment.world import GLM, Deal, Node, World, deal, until

if TYPE_CHECKING:
    from trio.testing import MockClock

    from p2p.storage import Connection


def lose_the_outbox(c: Connection) -> None:
    c.execute("DELETE FROM ground_outbox")


async def test_a_provider_that_starts_hears_of_all_that_is_open(autojump_clock: MockClock) -> None:
    world = World()
    requestor, provider = Node(world, "requestor", rich=True), Node(world, "provider")
    for n in (1, 2, 3):
        world.agree(requestor, provider, f"a{n}", activities=(f"x{n}",))
    async with requestor.running() as r:
        async with provider.running() as p:
            d = Deal(world, requestor, provider, r, p)
            await d.allocate()
            paid, rejected = await d.invoice(5 * GLM, "a1"), await d.invoice(6 * GLM, "a2")
            note = await d.note(GLM, "x3")
        # While the provider is away, its requestor answers and pays, and then loses what it had to say.
        await d.accept_invoice(paid, 5 * GLM)
        await r.reject_invoice(requestor.id, rejected, Rejection("BAD_SERVICE", GLM, "why"))
        await d.accept_note(note, GLM)

        async def transferred() -> bool:
            return bool(await r.payments(requestor.id))

        await until(transferred)
        assert isinstance(requestor.memory, InlineDatabase)
        await requestor.memory.write(lose_the_outbox)
        await trio.sleep(3600)
        async with provider.running() as p:
            d.p = p
            await d.settled(paid)

            async def caught_up() -> bool:
                return (await p.debit_note(provider.id, note)).status is Status.ACCEPTED

            await until(caught_up)
            assert (await p.invoice(provider.id, rejected)).status is Status.REJECTED
            events = await p.document_events(provider.id, "invoice", provider_events={"REJECTED"})
            assert events[0].rejection == Rejection("BAD_SERVICE", GLM, "why")
            await d.clean()


async def test_asking_often_is_answered_rarely(autojump_clock: MockClock) -> None:
    async with deal() as d:
        await d.accept_note(await d.note(GLM), GLM)
        address = f"{net_address(d.requestor.id, 'payment')}/PaymentSyncNeeded"
        body = codec.encode(PaymentSyncNeeded(d.requestor.id))
        told: list[str] = []
        call = d.requestor.bus.call

        async def counted(target: str, *arguments: Any, **named: Any) -> bytes:
            told.extend([target] if target.endswith("/PaymentSync") else [])
            return await call(target, *arguments, **named)

        d.requestor.bus.call = counted  # type: ignore[method-assign]
        for _ in range(10):
            await d.provider.bus.call(address, body)
        await trio.sleep(10)
        assert len(told) == 1
        await trio.sleep(60)
        await d.provider.bus.call(address, body)
        await trio.sleep(10)
        assert len(told) == 2
        with pytest.raises(RemoteError):
            await d.provider.bus.call(address, codec.encode(PaymentSyncNeeded("zzz")))


async def test_each_entry_of_a_sync_is_taken_on_its_own(autojump_clock: MockClock) -> None:
    async with deal() as d:
        invoice = await d.invoice(2 * GLM)
        message = PaymentSync(
            invoice_accepts=(
                AcceptInvoice("nope", Acceptance("1"), d.provider.id),
                AcceptInvoice(invoice, Acceptance("2"), d.provider.id),
            ),
            payments=(SendPayment(b'{"paymentId":"p1"}', b""), SendPayment(b"\xff", b"")),
        )
        address = f"{net_address(d.provider.id, 'payment')}/PaymentSync"
        reply = await d.requestor.bus.call(address, codec.encode(message))
        result = codec.decode(reply, SyncResult)
        assert [(error.what, error.kind) for error in result.errors] == [
            ("nope", "notFound"),
            ("p1", "badRequest"),
            ("", "badRequest"),
        ]
        assert (await d.p.invoice(d.provider.id, invoice)).status is Status.ACCEPTED
        flood = PaymentSync(invoice_accepts=(AcceptInvoice("x", Acceptance("1"), d.provider.id),) * 201)
        with pytest.raises(RemoteError, match="at most"):
            await d.requestor.bus.call(address, codec.encode(flood))
