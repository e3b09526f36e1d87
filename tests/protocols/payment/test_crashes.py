"""A requestor that is killed anywhere between accepting and settling pays exactly what it owes, once.

Every commit and every call to the chain is a place to die: before it, and after it took effect. The node is started
again on its database each time, its client repeats what it was doing, and in the end both providers have
on the chain what they billed, to the wei, and all books are clean.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest
import trio

from protocols.payment.records import Status
from tests.protocols.payment.world import DEVNET, GLM, RICH, Node, World, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from trio.testing import MockClock

    from protocols.payment.api import PaymentService

BILL = {"first": 3 * GLM, "second": 5 * GLM + 1}
DRIVER_CALLS = ("balance", "next_nonce", "prepare", "broadcast", "receipt")


class Fate:
    """Kills a node at one of its steps: from then on nothing that it does has an effect."""

    def __init__(self, at: int, *, after: bool) -> None:
        self.steps = 0
        self.dead = trio.Event()
        self._at = at
        self._after = after

    async def around(self, step: Callable[[], Any]) -> Any:
        await self._live()
        self.steps += 1
        mine = self.steps == self._at
        if mine and not self._after:
            await self._die()
        result = await step()
        if mine:
            await self._die()
        return result

    async def _live(self) -> None:
        if self.dead.is_set():
            await trio.sleep_forever()

    async def _die(self) -> None:
        self.dead.set()
        await trio.sleep_forever()


class MortalDatabase:
    def __init__(self, inner: Any, fate: Fate) -> None:
        self._inner = inner
        self._fate = fate

    async def write(self, f: Any, *, durable: bool = False) -> Any:
        return await self._fate.around(lambda: self._inner.write(f, durable=durable))

    async def read(self, f: Any) -> Any:
        return await self._inner.read(f)

    async def migrate(self, protocol: str, migrations: Any) -> None:
        await self._inner.migrate(protocol, migrations)


class MortalDriver:
    def __init__(self, inner: Any, fate: Fate) -> None:
        self._inner = inner
        self._fate = fate

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in DRIVER_CALLS:
            return found
        return lambda *arguments: self._fate.around(lambda: found(*arguments))


async def accept_everything(service: PaymentService, who: str) -> None:
    """What the requestor's client does: one budget, and all bills accepted from it; safe to do again."""
    found = await service.allocations(who)
    allocation = (
        found[0] if found else await service.create_allocation(who, platform=DEVNET, total_wei=20 * GLM)
    )
    while True:
        for note in await service.debit_notes(who):
            if note.status is Status.RECEIVED:
                await service.accept_debit_note(
                    who,
                    note.debit_note_id,
                    amount_wei=note.total_due_wei,
                    allocation_id=allocation.allocation_id,
                )
        for invoice in await service.invoices(who):
            if invoice.status is Status.RECEIVED:
                await service.accept_invoice(
                    who,
                    invoice.invoice_id,
                    amount_wei=invoice.amount_wei,
                    allocation_id=allocation.allocation_id,
                )
        await trio.sleep(1.0)


async def bill(service: PaymentService, provider: Node) -> None:
    note = await service.issue_debit_note(
        provider.id, activity_id=f"act-{provider.name}", total_due_wei=2 * GLM
    )
    invoice = await service.issue_invoice(
        provider.id,
        agreement_id=f"agr-{provider.name}",
        amount_wei=BILL[provider.name],
        activity_ids=[f"act-{provider.name}"],
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: service.send_debit_note(provider.id, note.debit_note_id, timeout=None))
        nursery.start_soon(lambda: service.send_invoice(provider.id, invoice.invoice_id, timeout=None))


async def live_and_die(path: Path, at: int, *, after: bool) -> int:
    """Play the story with a death at one step; return at which step it ended, or 0 if nobody died."""
    world = World()
    requestor = Node(world, "requestor", path, rich=True)
    providers = [Node(world, name) for name in BILL]
    for provider in providers:
        world.agree(requestor, provider, f"agr-{provider.name}", activities=(f"act-{provider.name}",))
    fate = Fate(at, after=after)
    requestor.wrap_database = lambda database: MortalDatabase(database, fate)
    requestor.wrap = lambda driver: MortalDriver(driver, fate)
    async with providers[0].running() as first, providers[1].running() as second:

        async def everything_is_settled() -> bool:
            found = [*await first.invoices(providers[0].id), *await second.invoices(providers[1].id)]
            return len(found) == 2 and all(invoice.status is Status.SETTLED for invoice in found)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(bill, first, providers[0])
            nursery.start_soon(bill, second, providers[1])
            await run_until(requestor, fate.dead.is_set, everything_is_settled)
            died_at = fate.steps if fate.dead.is_set() else 0
            requestor.wrap_database = lambda database: database
            requestor.wrap = None
            await run_until(requestor, lambda: False, everything_is_settled)
            await trio.sleep(20)  # whatever would be paid a second time

        for provider, service in zip(providers, (first, second), strict=True):
            where = f"died at step {at} {'after' if after else 'before'}"
            assert world.on_chain(provider) == BILL[provider.name], where
            assert sum(p.amount_wei for p in await service.payments(provider.id)) == BILL[provider.name], (
                where
            )
            audit = await service.audit()
            assert audit.clean, (where, audit)
            (row,) = await service.agreement_ledger(provider.id)
            assert row.totals.paid == row.totals.accepted == row.totals.due == BILL[provider.name], where
    async with requestor.running() as service:
        audit = await service.audit()
        assert audit.clean, audit
        (allocation,) = await service.allocations(requestor.id)
        assert allocation.spent_wei == sum(BILL.values())
    assert world.on_chain(requestor) == RICH - sum(BILL.values())
    return died_at


async def run_until(node: Node, dead: Callable[[], bool], done: Callable[[], Any]) -> None:
    async def over() -> bool:
        return dead() or await done()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(_live, node)
        await until(over, every=0.5)
        nursery.cancel_scope.cancel()


async def _live(node: Node) -> None:
    async with node.running() as service:
        await accept_everything(service, node.id)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("first", [1, 2, 3, 4])
async def test_death_at_every_fourth_step(
    first: int, after: bool, tmp_path: Path, autojump_clock: MockClock
) -> None:
    for at in itertools.count(first, 4):
        folder = tmp_path / str(at)
        folder.mkdir()
        if await live_and_die(folder, at, after=after) == 0:
            break
    assert at > 20
