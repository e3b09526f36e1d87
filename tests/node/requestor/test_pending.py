"""What a job may still be billed survives the node, and grows while nobody measured."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import trio

from node.requestor.pending import ORPHANED_NS, Bill, PendingBills
from p2p.storage import InlineDatabase
from protocols.ground.times import SECOND
from protocols.market.errors import WrongState
from protocols.market.messages import AgreementState

if TYPE_CHECKING:
    from trio.testing import MockClock

ME = "0x" + "11" * 20


class World:
    """A node's market, payment and clock, as far as bills need them."""

    def __init__(self) -> None:
        self.now = 1000 * SECOND
        self.ended: list[str] = []
        self.clock = SimpleNamespace(utc_ns=lambda: self.now)
        self.key = SimpleNamespace(node_id=ME)
        self.market = SimpleNamespace(service=self)
        self.payment = SimpleNamespace(service=self)

    async def terminate_agreement(self, actor: str, agreement_id: str, reason: Any) -> None:
        await trio.lowlevel.checkpoint()
        self.ended.append(agreement_id)
        if agreement_id == "ended":
            raise WrongState(AgreementState.TERMINATED, AgreementState.TERMINATED)

    async def debit_notes(self, actor: str, *, agreement_id: str) -> list[Any]:
        await trio.lowlevel.checkpoint()
        return []

    invoices = debit_notes


def test_a_bill_grows_with_the_time_that_nobody_measured() -> None:
    bill = Bill("a", "b", 1000, 0, second_wei=10, measured_ns=50 * SECOND)
    assert bill.at(50 * SECOND).most_wei == 1000
    assert bill.at(57 * SECOND).most_wei == 1070
    assert bill.at(57 * SECOND).at(99 * SECOND).most_wei == 1070, "its activity is over by then"
    assert bill.at(10**6 * SECOND).most_wei == 1000 + 10 * ORPHANED_NS // SECOND
    assert bill.at(0).most_wei == 1000, "a clock that was set back"


async def test_a_restarted_node_allows_for_the_time_that_it_was_gone(autojump_clock: MockClock) -> None:
    world, database = World(), InlineDatabase()
    node: Any = world
    bills = PendingBills(node, database)
    assert await bills.open() == []
    await bills.expect("standing", "allocation", 500, second_wei=7)
    await bills.expect("standing", "allocation", 600, second_wei=7)
    await bills.expect("ended", "allocation", 300)
    world.now += 20 * SECOND

    again = PendingBills(node, database)
    left = await again.open()
    assert [(bill.agreement_id, bill.most_wei) for bill in left] == [("standing", 600), ("ended", 300)]
    with trio.move_on_after(1):
        await again.pay_late(left)
    assert world.ended == ["standing", "ended"]
    kept = {bill.agreement_id: bill for bill in await again.open()}
    assert kept["standing"].most_wei == 600 + 20 * 7
    assert kept["ended"].most_wei == 300
    assert {bill.second_wei for bill in kept.values()} == {0}
    database.close()
