"""Allocations: never more than the wallet holds, gone when their time is over."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from protocols.payment.errors import AllocationProblem, AllocationReleased, BadRequest, NotFound
from protocols.payment.records import Status
from protocols.payment.settings import Settings
from tests.protocols.payment.world import DEVNET, GLM, Node, World, deal

if TYPE_CHECKING:
    from trio.testing import MockClock

    from protocols.payment.api import PaymentService

SECOND = 10**9


async def test_concurrent_creates_do_not_exceed_the_balance(autojump_clock: MockClock) -> None:
    world = World()
    node = Node(world, "node", rich=True)
    async with node.running() as service:
        refused: list[str] = []

        async def create() -> None:
            try:
                await service.create_allocation(node.id, platform=DEVNET, total_wei=300 * GLM)
            except AllocationProblem as problem:
                refused.append(problem.instance)

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(create)
        assert refused == ["insufficient-account-funds"] * 7
        assert len(await service.allocations(node.id)) == 3


async def test_the_refusal_says_how_much_there_is(autojump_clock: MockClock) -> None:
    world = World()
    node = Node(world, "node", rich=True)
    async with node.running() as service:
        await service.create_allocation(node.id, platform=DEVNET, total_wei=600 * GLM)
        with pytest.raises(AllocationProblem) as refusal:
            await service.create_allocation(node.id, platform=DEVNET, total_wei=500 * GLM)
        assert refusal.value.status == 400
        assert refusal.value.members["requestedFunds"] == "500"
        assert refusal.value.members["availableFunds"] == "400"
        assert refusal.value.members["reservedFunds"] == "600"


async def test_what_is_accepted_stays_reserved_until_it_has_left_the_wallet(
    autojump_clock: MockClock,
) -> None:
    async with deal() as d:
        d.world.chain.automine = False
        await d.accepted_invoice(60 * GLM)
        await d.r.release_allocation(d.requestor.id, d.allocation_id)
        with pytest.raises(AllocationProblem):
            await d.r.create_allocation(d.requestor.id, platform=DEVNET, total_wei=941 * GLM)
        wallet = await d.r.wallet(d.requestor.id, DEVNET)
        assert wallet.reserved_wei == 60 * GLM
        assert wallet.outgoing_accepted_wei == 60 * GLM
        await d.r.create_allocation(d.requestor.id, platform=DEVNET, total_wei=940 * GLM)


async def test_negative_and_zero_totals_reserve_nothing_and_free_nothing(autojump_clock: MockClock) -> None:
    world = World()
    node = Node(world, "node", rich=True)
    async with node.running() as service:
        for total in (-500 * GLM, 0):
            await service.create_allocation(node.id, platform=DEVNET, total_wei=total)
        with pytest.raises(AllocationProblem):
            await service.create_allocation(node.id, platform=DEVNET, total_wei=1001 * GLM)


async def test_amending(autojump_clock: MockClock) -> None:
    async with deal() as d:
        await d.accept_note(await d.note(30 * GLM), 30 * GLM)
        amend, now = d.r.amend_allocation, d.world.clock.utc_ns()
        up = await amend(d.requestor.id, d.allocation_id, total_wei=900 * GLM, timeout_ns=now + 60 * SECOND)
        assert (up.total_wei, up.remaining_wei) == (900 * GLM, 870 * GLM)
        down = await amend(d.requestor.id, d.allocation_id, total_wei=30 * GLM)
        assert down.remaining_wei == 0
        assert down.timeout_ns == up.timeout_ns
        with pytest.raises(BadRequest):
            await amend(d.requestor.id, d.allocation_id, total_wei=29 * GLM)
        with pytest.raises(BadRequest):
            await amend(d.requestor.id, d.allocation_id, timeout_ns=now - 1)
        with pytest.raises(AllocationProblem):
            await amend(d.requestor.id, d.allocation_id, total_wei=2000 * GLM)
        with pytest.raises(NotFound):
            await amend(d.provider.id, d.allocation_id, total_wei=GLM)
        await d.clean()


async def test_releasing(autojump_clock: MockClock) -> None:
    async with deal() as d:
        await d.r.release_allocation(d.requestor.id, d.allocation_id)
        with pytest.raises(AllocationReleased, match="has been already released"):
            await d.r.release_allocation(d.requestor.id, d.allocation_id)
        for ask in (d.r.allocation, d.r.release_allocation):
            with pytest.raises((NotFound, AllocationReleased)):
                await ask(d.requestor.id, d.allocation_id)
        with pytest.raises(NotFound):
            await d.r.release_allocation(d.requestor.id, "nope")
        with pytest.raises(NotFound):
            await d.r.decorations(d.requestor.id, [d.allocation_id])
        assert await d.r.allocations(d.requestor.id) == []


async def test_its_time_is_over_also_while_the_node_is_down(autojump_clock: MockClock) -> None:
    world = World()
    node = Node(world, "node", rich=True)

    async def make(service: PaymentService, seconds: int) -> str:
        timeout = world.clock.utc_ns() + seconds * SECOND
        made = await service.create_allocation(node.id, platform=DEVNET, total_wei=GLM, timeout_ns=timeout)
        return made.allocation_id

    async with node.running() as service:
        short, long = await make(service, 100), await make(service, 1000)
        await trio.sleep(101)
        assert [a.allocation_id for a in await service.allocations(node.id)] == [long]
        with pytest.raises(AllocationReleased):
            await service.release_allocation(node.id, short)
    await trio.sleep(1000)
    async with node.running() as service:
        assert await service.allocations(node.id) == []
        assert (await service.wallet(node.id, DEVNET)).reserved_wei == 0
        with pytest.raises(AllocationProblem) as refusal:
            await make(service, -1)
        assert refusal.value.instance == "timeout-passed"


async def test_expiry_with_a_payment_in_flight_pays_nevertheless(autojump_clock: MockClock) -> None:
    async with deal() as d:
        d.world.chain.automine = False
        timeout = d.world.clock.utc_ns() + 20 * SECOND
        await d.r.amend_allocation(d.requestor.id, d.allocation_id, timeout_ns=timeout)
        invoice = await d.accepted_invoice(5 * GLM)
        await trio.sleep(60)
        assert await d.r.allocations(d.requestor.id) == []
        d.world.chain.automine = True
        d.world.chain.mine()
        await d.settled(invoice)
        assert (await d.r.invoice(d.requestor.id, invoice)).status is Status.SETTLED
        (row,) = await d.r.expenditures(d.requestor.id, d.allocation_id)
        assert (row.accepted_wei, row.scheduled_wei) == (5 * GLM, 5 * GLM)
        await d.clean()


async def test_another_platform_or_wallet_cannot_pay(autojump_clock: MockClock) -> None:
    async with deal(payer_addr="0x" + "12" * 20) as d:
        invoice = await d.invoice(5 * GLM)
        with pytest.raises(BadRequest, match="pays from"):
            await d.accept_invoice(invoice, 5 * GLM)
        assert (await d.r.invoice(d.requestor.id, invoice)).status is Status.RECEIVED


async def test_without_the_check_of_funds_nobody_asks_the_chain(autojump_clock: MockClock) -> None:
    world = World()
    node = Node(world, "node")
    node.settings = Settings(check_funds=False)
    world.chain.available = False
    async with node.running() as service:
        await service.create_allocation(node.id, platform=DEVNET, total_wei=10**30)


async def test_a_chain_that_does_not_answer_is_said_to(autojump_clock: MockClock) -> None:
    world = World()
    node = Node(world, "node", rich=True)
    world.chain.available = False
    async with node.running() as service:
        with pytest.raises(AllocationProblem) as refusal:
            await service.create_allocation(node.id, platform=DEVNET, total_wei=GLM)
        assert (refusal.value.status, refusal.value.kind) == (500, "internal-error")


async def test_a_wallet_that_is_not_ours(autojump_clock: MockClock) -> None:
    world = World()
    node = Node(world, "node", rich=True)
    async with node.running() as service:
        for address in ("0x" + "11" * 20, "zzz"):
            with pytest.raises(AllocationProblem) as refusal:
                await service.create_allocation(node.id, platform=DEVNET, total_wei=GLM, address=address)
            assert refusal.value.kind == "internal-error"
        assert await service.accounts(node.id) == []
