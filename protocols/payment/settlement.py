"""Settlement: when debts are put into orders, and the cycles that bound their waiting.

Building an order is one transaction: it takes debts out of what waits and writes who gets how much. From then on
`lanes` gets the transfers mined. Nothing here talks to a chain.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from p2p.entropy import uuid4
from protocols.payment.chains import network_name
from protocols.payment.core.documents import OWNED
from protocols.payment.core.orders import by_payee, select, transfer_id
from protocols.payment.core.schedule import Rule, check_interval, fire_at, longest_gap_s, next_end
from protocols.payment.errors import BadRequest
from protocols.payment.networks import NETWORKS
from protocols.payment.records import Cycle, Order, OrderEntry
from protocols.payment.store import allocations, documents, ledger, orders

if TYPE_CHECKING:
    from collections.abc import Sequence

    from p2p.storage import Connection
    from protocols.payment.books import Books, Entry
    from protocols.payment.chains import Chains
    from protocols.payment.core.orders import Debt
    from protocols.payment.networks import Network, Platform
    from protocols.payment.records import Trouble
    from protocols.payment.troubles import Troubles

_LONGEST_SLEEP: Final = 300.0
"""The clock may be set meanwhile, so a cycle is not slept through in one go."""
_GATHER: Final = 0.2
"""Seconds to wait after a debt came in: debts often come together, and each look reads all that wait."""
_SECOND_NS: Final = 1_000_000_000
_EXTRA_WHEN_SET_S: Final = 3600.0
"""What a cycle gets as extra time when it is set without one, as the Golem daemon does."""
_FOR_EVER_NS: Final = 2**62


class Settlement:
    """Orders and cycles."""

    def __init__(self, books: Books, chains: Chains, troubles: Troubles) -> None:
        self._books = books
        self._chains = chains
        self._troubles = troubles

    async def run(self) -> None:
        """Build orders when their time comes, until cancelled."""
        while True:
            ticket = self._books.debt_signal.ticket()
            fire_ns: int | None = None
            for owner, platform, payer in await self._books.read(allocations.wallets_with_debts):
                due_ns = await self._books.read(functools.partial(self._due, owner, platform, payer))
                if due_ns is not None and due_ns <= self._books.now_ns:
                    built = await self._build(owner, platform, payer, force=False)
                    # What is left is below the least payment: it waits for company until the next cycle.
                    due_ns = None if built else self._books.now_ns + int(_LONGEST_SLEEP * _SECOND_NS)
                if due_ns is not None:
                    fire_ns = due_ns if fire_ns is None else min(fire_ns, due_ns)
            pause = math.inf
            if fire_ns is not None:
                pause = min(_LONGEST_SLEEP, max(0.0, (fire_ns - self._books.now_ns) / _SECOND_NS))
            with trio.move_on_after(pause):
                await ticket.wait()
                await trio.sleep(_GATHER)

    async def process_now(self, owner: str, platform: Platform) -> tuple[float, float]:
        started = self._books.ctx.clock.monotonic()
        wallets = await self._books.read(allocations.wallets_with_debts)
        for who, name, payer in wallets:
            if (who, name) == (owner, str(platform)):
                await self._build(owner, name, payer, force=True)
        resolved = self._books.ctx.clock.monotonic()
        self._books.lane_signal.notify()
        return resolved - started, self._books.ctx.clock.monotonic() - resolved

    # --- cycles ---------------------------------------------------------------------------------------------

    async def cycles(self, owner: str) -> Sequence[Cycle]:
        return [await self.cycle(owner, str(platform)) for platform in self._chains.platforms()]

    async def cycle(self, owner: str, platform: str) -> Cycle:
        kept = await self._books.read(lambda c: orders.cycle(c, owner, platform))
        now_ns = self._books.now_ns
        found = kept or self._default_cycle(owner, platform, now_ns)
        if found.next_ns > now_ns:
            return found
        return msgspec.structs.replace(
            found, next_ns=next_end(found.interval_s, found.cron, found.next_ns, now_ns)
        )

    async def set_cycle(
        self,
        owner: str,
        platform: str,
        *,
        interval_s: float | None = None,
        cron: str | None = None,
        extra_s: float | None = None,
        next_ns: int | None = None,
    ) -> Cycle:
        now_ns = self._books.now_ns
        if interval_s is not None:
            check_interval(interval_s)
            cron = None
        if next_ns is not None and next_ns <= now_ns:
            raise BadRequest("a payment cycle cannot end in the past")
        if extra_s is not None and not 0 <= extra_s <= 366 * 86_400:
            raise BadRequest("a payment cycle's extra time is between nothing and a year")
        end = next_end(interval_s, cron, now_ns, now_ns)
        longest = interval_s if interval_s is not None else longest_gap_s(cron or "", now_ns)

        def keep(entry: Entry) -> Cycle:
            before = orders.cycle(entry.c, owner, platform)
            cycle = Cycle(
                owner=owner,
                platform=platform,
                interval_s=interval_s,
                cron=cron,
                max_interval_s=longest,
                extra_s=_EXTRA_WHEN_SET_S if extra_s is None else extra_s,
                last_ns=before.last_ns if before else None,
                next_ns=end if next_ns is None else next_ns,
            )
            orders.keep_cycle(entry.c, cycle)
            entry.debts = True
            return cycle

        return await self._books.commit(keep)

    # --- reading --------------------------------------------------------------------------------------------

    async def orders(self, owner: str, order_id: str | None = None) -> Sequence[Order]:
        return await self._books.read(lambda c: orders.orders(c, owner, order_id))

    async def order_entries(
        self,
        owner: str,
        *,
        order_id: str | None = None,
        allocation_id: str | None = None,
        agreement_id: str | None = None,
        activity_id: str | None = None,
        payee_addr: str | None = None,
    ) -> Sequence[OrderEntry]:
        return await self._books.read(
            lambda c: orders.entries(
                c,
                owner,
                order_id=order_id,
                allocation_id=allocation_id,
                agreement_id=agreement_id,
                activity_id=activity_id,
                payee_addr=payee_addr,
            )
        )

    async def troubles(
        self, owner: str, *, driver: str | None = None, network: str | None = None
    ) -> Sequence[Trouble]:
        self._chains.check_known(driver, network)
        return [
            trouble
            for trouble in self._troubles.present(owner)
            if driver in (None, trouble.driver) and network in (None, trouble.network)
        ]

    # --- orders ---------------------------------------------------------------------------------------------

    def _due(self, owner: str, platform: str, payer: str, c: Connection) -> int | None:
        """Return when a wallet's debts must be put into an order."""
        debts = allocations.debts(c, owner, platform, payer)
        if not debts:
            return None
        now_ns = self._books.now_ns
        oldest = min(debt.accepted_ns for debt in debts)
        cycle = orders.cycle(c, owner, platform) or self._default_cycle(owner, platform, oldest)
        end = cycle.next_ns
        if end <= oldest:  # the cycle went on while there was nothing to pay
            end = next_end(cycle.interval_s, cycle.cron, end, oldest)
        rule = Rule(
            next_ns=end,
            margin_s=self._books.settings.margin_of(_network(platform)),
            enough_wei=self._books.settings.enough_wei,
        )
        return fire_at(debts, rule, now_ns)

    def _default_cycle(self, owner: str, platform: str, now_ns: int) -> Cycle:
        network = _network(platform)
        interval = self._books.settings.interval_of(network)
        return Cycle(
            owner=owner,
            platform=platform,
            interval_s=interval,
            cron=None,
            max_interval_s=interval,
            extra_s=self._books.settings.extra_of(network),
            last_ns=None,
            next_ns=now_ns + int(interval * _SECOND_NS),
        )

    async def _build(self, owner: str, platform: str, payer: str, *, force: bool) -> bool:
        """Put what is to be paid now into an order; return whether there was anything."""
        order_id = uuid4(self._books.ctx.entropy)
        least = 0 if force else self._books.settings.least_payment_wei

        def build(entry: Entry) -> bool:
            now_ns = _FOR_EVER_NS if force else entry.now_ns
            debts = select(allocations.debts(entry.c, owner, platform, payer), now_ns=now_ns, least_wei=least)
            if debts:
                _write_order(entry, order_id, owner, platform, payer, debts)
            cycle = orders.cycle(entry.c, owner, platform)
            cycle = cycle or self._default_cycle(owner, platform, entry.now_ns)
            end = cycle.next_ns
            if end <= entry.now_ns:
                end = next_end(cycle.interval_s, cycle.cron, end, entry.now_ns)
            orders.keep_cycle(entry.c, msgspec.structs.replace(cycle, last_ns=entry.now_ns, next_ns=end))
            return bool(debts)

        return await self._books.commit(build)


def _write_order(
    entry: Entry, order_id: str, owner: str, platform: str, payer: str, debts: Sequence[Debt]
) -> None:
    sums = by_payee(debts)
    orders.insert_order(
        entry.c,
        Order(
            order_id=order_id,
            owner=owner,
            payer_addr=payer,
            platform=platform,
            total_wei=sum(sums.values()),
            paid_wei=0,
            created_ns=entry.now_ns,
            updated_ns=entry.now_ns,
        ),
    )
    for payee, amount in sums.items():
        row = orders.TransferRow(
            transfer_id=transfer_id(owner, platform, order_id, payee),
            order_id=order_id,
            owner=owner,
            platform=platform,
            payee_addr=payee,
            amount_wei=amount,
            batch_id=None,
            tx_hash=None,
        )
        orders.insert_transfer(
            entry.c, row, network=network_name(platform), sender=payer, now_ns=entry.now_ns
        )
    for agreement_id in dict.fromkeys(debt.agreement_id for debt in debts):
        with ledger.changing(entry.c, owner, "R", agreement_id, entry.now_ns) as totals:
            for debt in debts:
                if debt.agreement_id == agreement_id:
                    totals.schedule(debt.activity_id, debt.amount_wei)
    for debt in debts:
        allocations.schedule(entry.c, debt)
        orders.insert_entry(entry.c, _entry_of(entry, order_id, owner, platform, debt))
    entry.transfers = True


def _entry_of(entry: Entry, order_id: str, owner: str, platform: str, debt: Debt) -> OrderEntry:
    return OrderEntry(
        order_id=order_id,
        owner=owner,
        payee_addr=debt.payee_addr,
        peer=debt.peer,
        allocation_id=debt.allocation_id,
        agreement_id=debt.agreement_id,
        activity_id=debt.activity_id,
        invoice_id=documents.owned_invoice(entry.c, owner, debt.agreement_id, OWNED)
        if debt.activity_id is None
        else None,
        debit_note_id=documents.owned_note(entry.c, owner, debt.activity_id, OWNED)
        if debt.activity_id is not None
        else None,
        amount_wei=debt.amount_wei,
        transfer_id=transfer_id(owner, platform, order_id, debt.payee_addr),
        paid=False,
        created_ns=entry.now_ns,
        updated_ns=entry.now_ns,
    )


def _network(platform: str) -> Network | None:
    return NETWORKS.get(network_name(platform))
