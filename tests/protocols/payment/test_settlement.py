"""When debts become orders: due dates, cycles, sums, and debts that nobody promised to pay soon."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from protocols.payment.errors import BadRequest
from protocols.payment.records import Status
from protocols.payment.settings import Settings
from tests.protocols.payment.world import DEVNET, GLM, Deal, Node, World, deal, until

if TYPE_CHECKING:
    from trio.testing import MockClock

SECOND = 10**9
NAME = str(DEVNET)


async def slow(d: Deal) -> None:
    """Let the requestor pay once an hour."""
    await d.r.set_cycle(d.requestor.id, NAME, interval_s=3600)


async def paid_after(d: Deal, amount: int) -> float:
    """Return how many seconds it takes until the provider has an amount."""
    before = trio.current_time()

    async def there() -> bool:
        return d.world.on_chain(d.provider) >= amount

    await until(there, within=200_000, every=1)
    return trio.current_time() - before


async def test_the_cycle_ends_and_all_is_paid_in_one_order(autojump_clock: MockClock) -> None:
    async with deal() as d:
        await slow(d)
        far = d.world.clock.utc_ns() + 86_400 * SECOND
        await d.accept_note(await d.note(GLM, due_ns=far), GLM)
        await trio.sleep(100)
        await d.accept_note(await d.note(3 * GLM, due_ns=far), 3 * GLM)
        assert 3400 < await paid_after(d, 3 * GLM) < 3600
        (order,) = await d.r.orders(d.requestor.id)
        assert order.total_wei == 3 * GLM
        cycle = await d.r.cycle(d.requestor.id, NAME)
        assert cycle.last_ns is not None
        assert cycle.next_ns - cycle.last_ns > 3500 * SECOND


async def test_a_due_date_is_met_before_the_cycle_ends(autojump_clock: MockClock) -> None:
    async with deal() as d:
        await slow(d)
        note = await d.note(GLM, due_ns=d.world.clock.utc_ns() + 120 * SECOND)
        await d.accept_note(note, GLM)
        assert await paid_after(d, GLM) < 120

        async def settled() -> bool:
            return (await d.p.debit_note(d.provider.id, note)).status is Status.SETTLED

        await until(settled)
        assert d.world.clock.utc_ns() < (await d.p.debit_note(d.provider.id, note)).due_ns  # type: ignore[operator]


async def test_a_payable_note_makes_earlier_ones_payable(autojump_clock: MockClock) -> None:
    async with deal() as d:
        await d.accept_note(await d.note(GLM), GLM)
        await trio.sleep(600)
        assert d.world.on_chain(d.provider) == 0  # information, not a promise
        await d.accept_note(await d.note(2 * GLM, due_ns=d.world.clock.utc_ns() + 60 * SECOND), 2 * GLM)
        assert await paid_after(d, 2 * GLM) < 60


async def test_a_promise_for_what_is_accepted_already(autojump_clock: MockClock) -> None:
    async with deal() as d:
        await d.accept_note(await d.note(GLM), GLM)
        await d.allocate()  # the note that adds nothing is accepted from another budget
        await d.accept_note(await d.note(GLM, due_ns=d.world.clock.utc_ns() + 60 * SECOND), GLM)
        assert await paid_after(d, GLM) < 60


async def test_a_promise_outlives_a_later_note_without_one(autojump_clock: MockClock) -> None:
    async with deal() as d:
        await slow(d)
        await d.accept_note(await d.note(GLM, due_ns=d.world.clock.utc_ns() + 600 * SECOND), GLM)
        await d.accept_note(await d.note(2 * GLM), 2 * GLM)
        assert 500 < await paid_after(d, GLM) < 600
        assert d.world.on_chain(d.provider) == 2 * GLM


async def test_a_debt_after_a_long_silence_waits_for_the_cycle_too(autojump_clock: MockClock) -> None:
    async with deal() as d:
        await slow(d)
        far = d.world.clock.utc_ns() + 10**6 * SECOND
        await d.accept_note(await d.note(GLM, due_ns=far), GLM)
        await paid_after(d, GLM)
        await trio.sleep(5 * 3600 + 1800)
        await d.accept_note(await d.note(2 * GLM, due_ns=far), 2 * GLM)
        assert 1000 < await paid_after(d, 2 * GLM) < 2600


async def test_a_note_without_a_promise_is_paid_in_the_end(autojump_clock: MockClock) -> None:
    async with deal() as d:
        note = await d.note(GLM)
        await d.accept_note(note, GLM)
        assert 86_400 <= await paid_after(d, GLM) < 86_500
        await d.clean()


async def test_an_invoice_pays_what_its_notes_have_not(autojump_clock: MockClock) -> None:
    async with deal() as d:
        await d.accept_note(await d.note(GLM), GLM)
        invoice = await d.accepted_invoice(3 * GLM)
        await d.settled(invoice)
        entries = await d.r.order_entries(d.requestor.id, agreement_id="a1")
        assert sorted((e.activity_id or "", e.amount_wei) for e in entries) == [("", 2 * GLM), ("act1", GLM)]
        assert all(e.paid for e in entries)
        assert {bool(e.invoice_id) != bool(e.debit_note_id) for e in entries} == {True}


async def test_process_now_pays_everything(autojump_clock: MockClock) -> None:
    async with deal() as d:
        await slow(d)
        await d.accept_note(await d.note(GLM), GLM)
        await d.r.process_now(d.requestor.id, DEVNET)
        assert await paid_after(d, GLM) < 5
        await d.r.process_now(d.requestor.id, DEVNET)
        assert len(await d.r.orders(d.requestor.id)) == 1


async def test_enough_together_is_paid_at_once(autojump_clock: MockClock) -> None:
    world = World()
    requestor, provider = Node(world, "requestor", rich=True), Node(world, "provider")
    requestor.settings = Settings(poll_s=0.25, cycle_s=3600, enough_wei=3 * GLM)
    world.agree(requestor, provider)
    async with requestor.running() as r, provider.running() as p:
        d = Deal(world, requestor, provider, r, p)
        await d.allocate()
        far = world.clock.utc_ns() + 86_400 * SECOND
        await d.accept_note(await d.note(2 * GLM, due_ns=far), 2 * GLM)
        await trio.sleep(60)
        assert world.on_chain(provider) == 0
        await d.accept_note(await d.note(3 * GLM, due_ns=far), 3 * GLM)
        assert await paid_after(d, 3 * GLM) < 5


async def test_dust_waits_for_company_and_is_never_lost(autojump_clock: MockClock) -> None:
    world = World()
    requestor, provider = Node(world, "requestor", rich=True), Node(world, "provider")
    requestor.settings = Settings(poll_s=0.25, least_payment_wei=2 * GLM)
    world.agree(requestor, provider)
    async with requestor.running() as r, provider.running() as p:
        d = Deal(world, requestor, provider, r, p)
        await d.allocate()
        due = world.clock.utc_ns() + 60 * SECOND
        await d.accept_note(await d.note(GLM, due_ns=due), GLM)
        await trio.sleep(1000)
        assert world.on_chain(provider) == 0
        await d.accept_note(await d.note(2 * GLM, due_ns=due), 2 * GLM)
        await paid_after(d, 2 * GLM)
        await d.clean()


async def test_cycles_are_shown_and_set(autojump_clock: MockClock) -> None:
    async with deal() as d:
        now = d.world.clock.utc_ns()
        (shown,) = await d.r.cycles(d.requestor.id)
        assert (shown.interval_s, shown.extra_s, shown.last_ns) == (5, 60, None)
        assert now < shown.next_ns <= now + 5 * SECOND
        daily = await d.r.set_cycle(d.requestor.id, NAME, cron="0 0 * * *", extra_s=30)
        assert (daily.max_interval_s, daily.extra_s, daily.interval_s) == (86_400, 30, None)
        both = await d.r.set_cycle(d.requestor.id, NAME, cron="0 0 * * *", interval_s=10)
        assert (both.cron, both.interval_s, both.extra_s) == (None, 10, 3600)
        for wrong in (
            {"interval_s": 1.0},
            {"cron": "x"},
            {},
            {"interval_s": 10.0, "next_ns": now - 1},
            {"interval_s": 10.0, "extra_s": -1.0},
        ):
            with pytest.raises(BadRequest):
                await d.r.set_cycle(d.requestor.id, NAME, **wrong)  # type: ignore[arg-type]
        unknown = await d.r.cycle(d.requestor.id, "foo")
        assert (unknown.interval_s, unknown.extra_s) == (86_400, 3600)
