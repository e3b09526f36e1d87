"""The payment family where the recordings do not reach: bad bodies, silent peers, filters, awkward numbers."""

from __future__ import annotations

import decimal
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.api.payment_json import MOST_WEI, read_amount, read_budget
from protocols.ground.money import MoneyError, format_amount
from tests.node.api.test_payment_replay import PaymentClient
from tests.protocols.payment.world import DEVNET, GLM, Node, World, until

if TYPE_CHECKING:
    from trio.testing import MockClock

    from tests.node.api.client import Answer

PA = "/payment-api/v1"


@given(st.integers(-MOST_WEI, MOST_WEI))
def test_amounts_come_back_as_they_were(wei: int) -> None:
    assert read_amount(format_amount(wei)) == wei
    assert read_budget(format_amount(wei)) == wei


@given(st.floats(0, 1e6, allow_nan=False))
def test_budgets_of_floats_are_cut_to_the_wei(amount: float) -> None:
    all_digits = decimal.Decimal(amount)  # as Python clients send it
    wei = read_budget(f"{all_digits:f}" if all_digits.adjusted() > -60 else "0")
    assert 0 <= all_digits - decimal.Decimal(wei).scaleb(-18) < decimal.Decimal("1e-18") or wei == 0


@pytest.mark.parametrize(
    "value", [True, None, [], {}, "", "x", "1e99", "NaN", "Infinity", "1e-61", "9" * 30, 1e30, "0x10", " 1"]
)
def test_what_is_no_amount(value: Any) -> None:
    for read in (read_amount, read_budget):
        with pytest.raises(MoneyError):
            read(value)


class Rig:
    """A requestor and a provider behind REST."""

    def __init__(self, requestor: PaymentClient, provider: PaymentClient) -> None:
        self.requestor, self.provider = requestor, provider

    async def allocate(self, total: Any = "10", **members: Any) -> Answer:
        return await self.requestor.post(
            PA + "/allocations", {"totalAmount": total, "paymentPlatform": str(DEVNET), **members}
        )

    async def bill(self, amount: str) -> str:
        invoice = await self.provider.post(PA + "/invoices", {"agreementId": "a1", "amount": amount})
        assert invoice.status == 201, invoice
        sent = await self.provider.post(f"{PA}/invoices/{invoice.json()['invoiceId']}/send")
        assert (sent.status, sent.body) == (200, b"null")
        return str(invoice.json()["invoiceId"])


async def test_bad_bodies_and_queries(autojump_clock: MockClock) -> None:
    world = World()
    node = Node(world, "requestor", rich=True)
    async with node.serving() as protocol:
        client = PaymentClient(protocol, node.id)
        for path, body in (
            ("/allocations", []),
            ("/allocations", {"totalAmount": "1", "timeout": 7}),
            ("/allocations", {"totalAmount": "1", "address": 7}),
            ("/allocations", {"totalAmount": "1", "deposit": "x"}),
            ("/debitNotes", {"activityId": "x"}),
            ("/debitNotes", {"activityId": 1, "totalAmountDue": "1"}),
            ("/invoices", {"agreementId": "a", "amount": "1", "activityIds": "x"}),
            ("/invoices/x/accept", {"totalAmountAccepted": "1"}),
            ("/invoices/x/reject", {"totalAmountAccepted": "1"}),
            ("/batchCycle", {"platform": "x", "intervalSec": "x"}),
        ):
            answer = await client.post(PA + path, body)
            assert answer.status == 400, (path, body, answer)
            assert answer.content_type is not None
            assert answer.content_type.startswith("text/plain"), (path, body, answer)
        for path in (
            "/allocations?maxItems=-1",
            "/invoices?maxItems=x",
            "/invoiceEvents?timeout=-1",
            "/invoiceEvents?timeout=inf",
            "/invoiceEvents?maxEvents=4294967296",
            "/payments?afterTimestamp=now",
            "/payments?timeout=",
        ):
            assert (await client.get(PA + path)).status == 400, path
        assert (await client.get(PA + "/payments?timeout=0&network=foo")).status == 500
        assert (await client.post(PA + "/batchCycle/foo/now")).status == 400
        assert (await client.post(PA + "/batchCycle", {"platform": "x", "intervalSec": 1})).status == 400
        for path in ("/payActivities/x", "/payAgreements/x", "/payments/x", "/invoices/x", "/debitNotes/x"):
            assert (await client.get(PA + path)).status == 404, path


@pytest.mark.parametrize(
    ("deposit", "instance"),
    [
        ({"id": "1", "contract": "abc"}, "malformed-deposit-contract"),
        ({"id": "zz", "contract": "0x" + "1" * 40}, "malformed-deposit-id"),
        ({"id": "0x" + "1" * 65, "contract": "0x" + "1" * 40}, "malformed-deposit-id"),
        ({"id": "1", "contract": "0x" + "1" * 40}, "deposit-validation-error"),
    ],
)
async def test_deposits_are_refused_and_why(
    deposit: dict[str, str], instance: str, autojump_clock: MockClock
) -> None:
    world = World()
    node = Node(world, "requestor", rich=True)
    async with node.serving() as protocol:
        client = PaymentClient(protocol, node.id)
        answer = await client.post(
            PA + "/allocations", {"totalAmount": "1", "paymentPlatform": str(DEVNET), "deposit": deposit}
        )
        assert (answer.status, answer.content_type) == (400, "application/problem+json")
        document = answer.json()
        assert document["instance"].endswith("/validation-error/" + instance)
        assert document["message"] == document["detail"]
        assert document["requestBody"]["deposit"]["contract"] == deposit["contract"]


async def test_a_silent_requestor_is_a_504_and_an_accepted_invoice_a_409(autojump_clock: MockClock) -> None:
    world = World()
    requestor, provider = Node(world, "requestor", rich=True), Node(world, "provider")
    world.agree(requestor, provider)
    async with requestor.serving() as r, provider.serving() as p:
        rig = Rig(PaymentClient(r, requestor.id), PaymentClient(p, provider.id))
        allocation = (await rig.allocate()).json()["allocationId"]
        invoice = await rig.bill("2")
        accept = {"totalAmountAccepted": "2.000", "allocationId": allocation}
        assert (await rig.requestor.post(f"{PA}/invoices/{invoice}/accept", accept)).status == 200

        async def known() -> bool:
            shown = await rig.provider.get(f"{PA}/invoices/{invoice}")
            return bool(shown.json()["status"] != "RECEIVED")

        await until(known)
        assert (await rig.provider.post(f"{PA}/invoices/{invoice}/cancel")).status == 409
        note = await rig.provider.post(PA + "/debitNotes", {"activityId": "act1", "totalAmountDue": 1})
        world.overlays.cut(requestor.id, provider.id)
        silent = await rig.provider.post(f"{PA}/debitNotes/{note.json()['debitNoteId']}/send?timeout=1")
        assert silent.status == 504
        assert "delivery goes on" in silent.message


async def test_payments_are_filtered_by_what_their_platform_is(autojump_clock: MockClock) -> None:
    world = World()
    requestor, provider = Node(world, "requestor", rich=True), Node(world, "provider")
    world.agree(requestor, provider, session_id="s1")
    async with requestor.serving() as r, provider.serving() as p:
        rig = Rig(PaymentClient(r, requestor.id), PaymentClient(p, provider.id))
        allocation = (await rig.allocate()).json()["allocationId"]
        invoice = await rig.bill("2")
        accept = {"totalAmountAccepted": 2, "allocationId": allocation}
        await rig.requestor.post(f"{PA}/invoices/{invoice}/accept", accept)
        found = await rig.provider.get(
            PA + "/payments?timeout=60&network=devnet&driver=erc20&appSessionId=s1"
        )
        (payment,) = found.json()
        assert payment["amount"] == "2"
        assert (
            await rig.provider.get(PA + f"/payments?timeout=0&afterTimestamp={payment['timestamp']}")
        ).json() == []
        assert (await rig.provider.get(PA + "/payments?timeout=0&appSessionId=s2")).json() == []
        assert (await rig.provider.get(PA + "/payments?timeout=0&maxEvents=0")).json() == []
        assert len((await rig.provider.get(f"{PA}/invoices/{invoice}/payments")).json()) == 1
        wallet = await p.service.wallet(provider.id, DEVNET)
        assert wallet.incoming_paid_wei == 2 * GLM


async def test_headers_choose_events_to_the_letter(autojump_clock: MockClock) -> None:
    world = World()
    requestor, provider = Node(world, "requestor", rich=True), Node(world, "provider")
    world.agree(requestor, provider)
    async with requestor.serving() as r, provider.serving() as p:
        rig = Rig(PaymentClient(r, requestor.id), PaymentClient(p, provider.id))
        allocation = (await rig.allocate()).json()["allocationId"]
        invoice = await rig.bill("2")
        accept = {"totalAmountAccepted": "2", "allocationId": allocation}
        await rig.requestor.post(f"{PA}/invoices/{invoice}/accept", accept)

        async def kinds(header: str | None) -> list[str]:
            headers = {} if header is None else {"X-Requestor-Events": header}
            answer = await rig.requestor("GET", PA + "/invoiceEvents?timeout=0", headers=headers)
            return [event["eventType"] for event in answer.json()]

        received, accepted = "InvoiceReceivedEvent", "InvoiceAcceptedEvent"
        assert await kinds(None) == [received]
        assert await kinds("RECEIVED,ACCEPTED") == [received, accepted]
        assert await kinds("RECEIVED, ACCEPTED") == [received]
        assert await kinds("accepted") == []
        assert await kinds("") == []
