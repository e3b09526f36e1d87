"""Getting transfers mined on a chain that misbehaves: nothing is lost, nothing is paid twice, and it is said why."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio

from protocols.payment.drivers.base import Transfer
from protocols.payment.errors import AccountUnusable, NotFound
from protocols.payment.networks import NETWORKS
from protocols.payment.records import Status
from protocols.payment.testing import ModelDriver
from tests.protocols.payment.world import DEVNET, GLM, RICH, Deal, Node, World, deal, until

if TYPE_CHECKING:
    from trio.testing import MockClock

DEEP = msgspec.structs.replace(NETWORKS["devnet"], confirmations=3)
PATIENT = msgspec.structs.replace(NETWORKS["devnet"], transaction_timeout_s=1000.0)
DEBTS = 250
ASKED = frozenset({"PAYMENT_EVENT", "PAYMENT_OK", "SETTLED"})


async def paid_exactly(d: Deal, amount: int) -> None:
    """Check what is on the chain, and that nothing follows."""
    assert d.world.on_chain(d.provider) == amount
    await trio.sleep(120)
    assert d.world.on_chain(d.provider) == amount
    await d.clean()


async def in_trouble(d: Deal) -> str:
    async def found() -> bool:
        return bool(await d.r.troubles(d.requestor.id))

    await until(found)
    (trouble,) = await d.r.troubles(d.requestor.id)
    assert trouble.address == d.requestor.id
    return trouble.kind


async def test_a_wallet_without_coin_waits_for_it_and_says_so(autojump_clock: MockClock) -> None:
    async with deal() as d:
        d.world.chain.account(d.requestor.id).coin_wei = 0
        invoice = await d.accepted_invoice(5 * GLM)
        assert await in_trouble(d) == "InsufficientGas"
        d.world.chain.give(d.requestor.id, coin_wei=RICH)
        await d.settled(invoice)
        events = await d.r.document_events(d.requestor.id, "invoice", requestor_events=ASKED)
        assert [event.event for event in events] == ["PAYMENT_EVENT", "SETTLED"]
        assert events[0].trouble is not None
        assert events[0].trouble.kind == "InsufficientGas"
        assert not await d.r.troubles(d.requestor.id)
        await paid_exactly(d, 5 * GLM)


async def test_what_waits_for_another_payment_hears_when_all_is_well(autojump_clock: MockClock) -> None:
    world = World()
    async with deal(world) as d:
        world.agree(d.requestor, d.provider, "a2", activities=("act2",))
        d.world.chain.account(d.requestor.id).token_wei = GLM
        big = await d.accepted_invoice(5 * GLM)
        assert await in_trouble(d) == "InsufficientToken"
        small = await d.invoice(GLM, "a2")
        await d.accept_invoice(small, GLM)
        await d.settled(small)  # what can be paid is paid
        assert (await d.p.invoice(d.provider.id, big)).status is Status.ACCEPTED
        d.world.chain.give(d.requestor.id, token_wei=10 * GLM)
        await d.settled(big)
        assert not await d.r.troubles(d.requestor.id)
        await paid_exactly(d, 6 * GLM)


async def test_a_chain_that_comes_and_goes(autojump_clock: MockClock) -> None:
    async with deal() as d:
        d.world.chain.automine = False
        invoice = await d.accepted_invoice(5 * GLM)
        async with trio.open_nursery() as nursery:

            async def flicker() -> None:
                for n in range(40):
                    d.world.chain.available = n % 2 == 0
                    await trio.sleep(1.7)
                    if n % 5 == 0:
                        d.world.chain.mine()
                d.world.chain.available = True
                d.world.chain.automine = True
                d.world.chain.mine()

            nursery.start_soon(flicker)
        await d.settled(invoice)
        await paid_exactly(d, 5 * GLM)


async def test_a_transaction_that_is_too_cheap_is_replaced(autojump_clock: MockClock) -> None:
    async with deal() as d:
        d.world.chain.automine = False
        invoice = await d.accepted_invoice(5 * GLM)
        await trio.sleep(10)
        d.world.chain.base_fee_wei *= 4  # the fee rises while it waits
        d.world.chain.mine()
        assert d.world.on_chain(d.provider) == 0

        async def mined() -> bool:
            d.world.chain.mine()
            return d.world.on_chain(d.provider) > 0

        await until(mined, every=1)
        d.world.chain.automine = True
        await d.settled(invoice)
        await paid_exactly(d, 5 * GLM)


async def test_fees_above_the_ceiling_are_trouble_until_they_fall(autojump_clock: MockClock) -> None:
    async with deal() as d:
        d.world.chain.base_fee_wei = 50 * 10**9
        invoice = await d.accepted_invoice(5 * GLM)
        assert await in_trouble(d) == "TxStuck"
        d.world.chain.base_fee_wei = 10**9
        await d.settled(invoice)
        await paid_exactly(d, 5 * GLM)


async def test_a_node_that_forgets_its_pool_is_told_again(autojump_clock: MockClock) -> None:
    async with deal(World(PATIENT)) as d:
        d.world.chain.automine = False
        invoice = await d.accepted_invoice(5 * GLM)
        await trio.sleep(7)
        d.world.chain.drop_pool()
        await trio.sleep(20)
        d.world.chain.automine = True
        d.world.chain.mine()
        await trio.sleep(1)
        assert (await d.r.invoice(d.requestor.id, invoice)).status is Status.SETTLED
        await paid_exactly(d, 5 * GLM)


async def test_another_program_takes_the_nonce(autojump_clock: MockClock) -> None:
    async with deal() as d:
        d.world.chain.automine = False
        invoice = await d.accepted_invoice(5 * GLM)
        await trio.sleep(7)
        d.world.chain.drop_pool()
        driver = ModelDriver(d.world.chain)
        elsewhere = "0x" + "55" * 20
        (foreign,) = await driver.prepare([Transfer("foreign", elsewhere, GLM)], 0, d.requestor.key)
        await driver.broadcast(foreign.raw)
        d.world.chain.automine = True
        d.world.chain.mine()
        await d.settled(invoice)
        assert d.world.chain.account(elsewhere).token_wei == GLM
        await paid_exactly(d, 5 * GLM)


async def test_a_reorganisation_before_the_depth_pays_once(autojump_clock: MockClock) -> None:
    async with deal(World(DEEP)) as d:
        invoice = await d.accepted_invoice(5 * GLM)
        await trio.sleep(8)
        d.world.chain.mine()
        assert d.world.on_chain(d.provider) == 5 * GLM
        d.world.chain.take_back(2, forget=True)
        assert d.world.on_chain(d.provider) == 0

        async def settled() -> bool:
            d.world.chain.mine()
            return (await d.p.invoice(d.provider.id, invoice)).status is Status.SETTLED

        await until(settled, every=1)
        await paid_exactly(d, 5 * GLM)


async def test_what_a_deep_reorganisation_took_back_is_sent_again_with_the_next_payment(
    autojump_clock: MockClock,
) -> None:
    world = World()
    async with deal(world) as d:
        world.agree(d.requestor, d.provider, "a2", activities=("act2",))
        first = await d.accepted_invoice(5 * GLM)
        await d.settled(first)
        d.world.chain.take_back(1, forget=True)
        second = await d.invoice(GLM, "a2")
        await d.accept_invoice(second, GLM)
        await d.settled(second)
        await paid_exactly(d, 6 * GLM)


async def test_a_transaction_that_reverts_is_tried_again_later(autojump_clock: MockClock) -> None:
    async with deal() as d:
        d.world.chain.failing.add(d.requestor.id)
        invoice = await d.accepted_invoice(5 * GLM)
        assert await in_trouble(d) == "TxStuck"
        coin = d.world.chain.account(d.requestor.id).coin_wei
        await trio.sleep(200)
        attempts = d.world.chain.account(d.requestor.id).nonce
        assert attempts < 6  # each costs a fee, so the pauses grow
        assert d.world.chain.account(d.requestor.id).coin_wei <= coin
        d.world.chain.failing.clear()
        await d.settled(invoice)
        await paid_exactly(d, 5 * GLM)


async def test_a_locked_key_is_trouble_until_it_is_unlocked(autojump_clock: MockClock) -> None:
    locked = [True]
    world = World()
    requestor, provider = Node(world, "requestor", rich=True), Node(world, "provider")
    requestor.wrap = lambda driver: Locked(driver, locked)  # type: ignore[assignment]
    world.agree(requestor, provider)
    async with requestor.running() as r, provider.running() as p:
        d = Deal(world, requestor, provider, r, p)
        await d.allocate()
        invoice = await d.accepted_invoice(5 * GLM)
        assert await in_trouble(d) == "CantSign"
        locked[0] = False
        await d.settled(invoice)
        await paid_exactly(d, 5 * GLM)


class Locked:
    """A driver whose signer refuses while it is locked."""

    def __init__(self, inner: Any, locked: list[bool]) -> None:
        self._inner = inner
        self._locked = locked

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def prepare(self, transfers: Any, nonce: int, signer: Any) -> Any:
        if self._locked[0]:
            raise AccountUnusable("locked")
        return await self._inner.prepare(transfers, nonce, signer)


async def test_debts_to_a_hundred_payees_take_few_transactions(autojump_clock: MockClock) -> None:
    world = World()
    requestor = Node(world, "requestor", rich=True)
    provider = Node(world, "provider")
    for n in range(DEBTS):
        world.agree(
            requestor,
            provider,
            f"a{n}",
            activities=(f"x{n}",),
            payee_addr=f"0x{1 + n % 100:040x}",
        )
    async with requestor.running() as r, provider.running() as p:
        d = Deal(world, requestor, provider, r, p)
        await d.allocate()
        await r.set_cycle(requestor.id, str(DEVNET), interval_s=3600)
        for n in range(DEBTS):
            note = await d.note(10**15, f"x{n}", due_ns=world.clock.utc_ns() + 3600 * 10**9)
            await d.accept_note(note, 10**15)
        before = world.chain.account(requestor.id).nonce
        await r.process_now(requestor.id, DEVNET)

        async def all_settled() -> bool:
            rows = await p.agreement_ledger(provider.id)
            return all(row.totals.paid == 10**15 for row in rows)

        await until(all_settled, every=5)
        batches = math.ceil(100 / NETWORKS["devnet"].max_batch)
        assert world.chain.account(requestor.id).nonce - before == batches + 1  # and one approval
        assert sum(world.chain.account(f"0x{1 + n:040x}").token_wei for n in range(100)) == DEBTS * 10**15
        (order,) = await r.orders(requestor.id)
        assert order.total_wei == order.paid_wei == DEBTS * 10**15
        assert len(await p.payments(provider.id)) == 100


async def test_funding(autojump_clock: MockClock) -> None:
    world = World()
    node = Node(world, "node")
    async with node.running() as service:
        said: list[str] = []
        funding = await service.fund(node.id, DEVNET, progress=said.append)
        assert funding.balance.token_wei == 1000 * GLM
        await service.fund(node.id, DEVNET)
        (account,) = await service.accounts(node.id)
        assert (account.send, account.receive) == (True, True)
        wallet = await service.wallet(node.id, DEVNET)
        assert (wallet.token_wei, wallet.reserved_wei) == (1000 * GLM, 0)


async def test_funding_a_wallet_whose_payment_waits_for_coin(autojump_clock: MockClock) -> None:
    async with deal() as d:
        d.world.chain.automine = False
        invoice = await d.accepted_invoice(5 * GLM)
        await trio.sleep(7)
        d.world.chain.drop_pool()
        d.world.chain.account(d.requestor.id).coin_wei = 0
        d.world.chain.automine = True
        await trio.sleep(30)
        await d.r.fund(d.requestor.id, DEVNET)
        await d.settled(invoice)
        await paid_exactly(d, 5 * GLM)


async def test_status_knows_drivers_and_networks(autojump_clock: MockClock) -> None:
    async with deal() as d:
        assert not await d.r.troubles(d.requestor.id, driver="erc20", network="devnet")
        with pytest.raises(NotFound, match="Requested driver not registered foo"):
            await d.r.troubles(d.requestor.id, driver="foo")
        with pytest.raises(NotFound, match="Requested network not supported foo"):
            await d.r.troubles(d.requestor.id, driver="erc20", network="foo")
