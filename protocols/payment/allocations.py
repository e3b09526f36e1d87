"""Allocations: made, amended, released, and let go when their time is over."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio

from p2p.entropy import uuid4
from protocols.ground.money import format_amount
from protocols.ground.times import format_time
from protocols.payment.core import spending
from protocols.payment.core.decorations import decorate
from protocols.payment.effects import announce_allocation
from protocols.payment.errors import (
    AccountUnusable,
    AllocationProblem,
    AllocationReleased,
    NotFound,
    Unavailable,
)
from protocols.payment.networks import parse_platform
from protocols.payment.records import Allocation
from protocols.payment.store import allocations, ledger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from protocols.payment.accounts import Accounts
    from protocols.payment.books import Books, Entry
    from protocols.payment.networks import Platform
    from protocols.payment.records import Decorations, Expenditure

_LONGEST_SLEEP: Final = 60.0
"""The clock may be set meanwhile, so timeouts are not slept through in one go."""
_RELEASE_AT_ONCE: Final = 100
_NO_FUNDS: Final = (
    "Insufficient funds to create the allocation. Top up your account or release all existing allocations to "
    "unlock the funds via `yagna payment release-allocations`"
)


class Allocations:
    """Commands and questions about allocations, and their timeouts."""

    def __init__(self, books: Books, accounts: Accounts) -> None:
        self._books = books
        self._accounts = accounts

    async def create_allocation(
        self,
        owner: str,
        *,
        platform: Platform,
        total_wei: int,
        timeout_ns: int | None = None,
        address: str | None = None,
    ) -> Allocation:
        try:
            account = await self._accounts.init_account(
                owner, platform, send=True, receive=False, address=address
            )
        except AccountUnusable as error:
            raise _internal(
                f"Failed to initialize account on driver: {platform.driver} due to error {error}"
            ) from error
        now_ns = self._books.now_ns
        if timeout_ns is not None and timeout_ns <= now_ns:
            raise self._invalid(
                "Requested allocation timeout is in the past",
                "timeout-passed",
                account.address,
                account.platform,
                requestedTimeout=format_time(timeout_ns).replace("Z", "+00:00"),
            )
        balance = await self._spendable_balance(account.address, platform)
        allocation = Allocation(
            allocation_id=uuid4(self._books.ctx.entropy),
            owner=owner,
            platform=account.platform,
            address=account.address,
            total_wei=total_wei,
            spent_wei=0,
            created_ns=now_ns,
            updated_ns=now_ns,
            timeout_ns=now_ns + spending.DEFAULT_LIFE_NS if timeout_ns is None else timeout_ns,
            released=False,
        )

        def create(entry: Entry) -> Allocation:
            self._check_funds(entry, allocation, total_wei, balance)
            allocations.insert_allocation(entry.c, allocation)
            announce_allocation(entry, allocation)
            return allocation

        made = await self._books.commit(create)
        self._books.allocation_signal.notify()
        return made

    async def amend_allocation(
        self, owner: str, allocation_id: str, *, total_wei: int | None = None, timeout_ns: int | None = None
    ) -> Allocation:
        now = await self.allocation(owner, allocation_id)
        grows = total_wei is not None and total_wei > now.total_wei
        balance = None
        if grows:
            balance = await self._spendable_balance(now.address, parse_platform(now.platform))

        def amend(entry: Entry) -> Allocation:
            current = _live(entry, owner, allocation_id)
            total = current.total_wei if total_wei is None else total_wei
            timeout = current.timeout_ns if timeout_ns is None else timeout_ns
            spending.check_amendment(current, total, timeout, entry.now_ns)
            if total > current.total_wei:
                self._check_funds(entry, current, total - current.total_wei, balance)
            amended = msgspec.structs.replace(
                current, total_wei=total, timeout_ns=timeout, updated_ns=entry.now_ns
            )
            allocations.update_allocation(entry.c, amended)
            announce_allocation(entry, amended)
            return amended

        amended = await self._books.commit(amend)
        self._books.allocation_signal.notify()
        return amended

    async def release_allocation(self, owner: str, allocation_id: str) -> None:
        def release(entry: Entry) -> None:
            allocation = allocations.allocation(entry.c, owner, allocation_id)
            if allocation is None:
                raise NotFound(f"no allocation {allocation_id}")
            if allocation.released or allocation.timeout_ns <= entry.now_ns:
                raise AllocationReleased(allocation_id)
            _release(entry, allocation)

        await self._books.commit(release)

    async def allocation(self, owner: str, allocation_id: str) -> Allocation:
        found = await self._books.read(lambda c: allocations.allocation(c, owner, allocation_id))
        if found is None or found.released or found.timeout_ns <= self._books.now_ns:
            raise NotFound(f"no allocation {allocation_id}")
        return found

    async def allocations(
        self, owner: str, *, after_ns: int | None = None, limit: int | None = None
    ) -> Sequence[Allocation]:
        now_ns = self._books.now_ns
        return await self._books.read(
            lambda c: allocations.live_allocations(c, owner, now_ns=now_ns, after_ns=after_ns, limit=limit)
        )

    async def decorations(self, owner: str, allocation_ids: Sequence[str]) -> Decorations:
        return decorate([await self.allocation(owner, id_) for id_ in allocation_ids])

    async def expenditures(self, owner: str, allocation_id: str) -> Sequence[Expenditure]:
        found = await self._books.read(lambda c: allocations.allocation(c, owner, allocation_id))
        if found is None:
            raise NotFound(f"no allocation {allocation_id}")
        return await self._books.read(lambda c: allocations.expenditures(c, allocation_id))

    async def release_when_timed_out(self) -> None:
        """Release allocations when their time is over, until cancelled."""
        while True:
            ticket = self._books.allocation_signal.ticket()
            due = await self._books.read(allocations.next_timeout)
            if due is not None and due <= self._books.now_ns:
                await self._books.commit(_release_timed_out)
                continue
            pause = math.inf if due is None else min(_LONGEST_SLEEP, (due - self._books.now_ns) / 1e9)
            with trio.move_on_after(pause):
                await ticket.wait()

    async def _spendable_balance(self, address: str, platform: Platform) -> int | None:
        """Return what the chain says a wallet holds; None where nobody wants to know."""
        if not self._books.settings.check_funds:
            return None
        try:
            return (await self._accounts.balance(address, platform)).token_wei
        except Unavailable as error:
            raise _internal(f"Error while validating allocation: {error}") from error

    def _check_funds(self, entry: Entry, allocation: Allocation, asked_wei: int, balance: int | None) -> None:
        if balance is None:
            return
        platform, address = allocation.platform, allocation.address
        live = allocations.wallet_allocations(entry.c, platform, address, entry.now_ns)
        spoken_for = spending.reserved(live, ledger.owed(entry.c, platform, address))
        if asked_wei > 0 and asked_wei > balance - spoken_for:
            raise self._invalid(
                _NO_FUNDS,
                "insufficient-account-funds",
                address,
                platform,
                requestedFunds=format_amount(asked_wei),
                availableFunds=format_amount(balance - spoken_for),
                reservedFunds=format_amount(spoken_for),
            )

    def _invalid(
        self, detail: str, instance: str, address: str, platform: str, **members: Any
    ) -> AllocationProblem:
        return AllocationProblem(
            400,
            "validation-error",
            detail,
            instance=instance,
            address=address,
            paymentPlatform=platform,
            **members,
        )


def _internal(text: str) -> AllocationProblem:
    return AllocationProblem(500, "internal-error", "Unhandled internal error", internalError=text)


def _live(entry: Entry, owner: str, allocation_id: str) -> Allocation:
    found = allocations.allocation(entry.c, owner, allocation_id)
    if found is None or found.released or found.timeout_ns <= entry.now_ns:
        raise NotFound(f"no allocation {allocation_id}")
    return found


def _release_timed_out(entry: Entry) -> None:
    for allocation in allocations.timed_out(entry.c, entry.now_ns, _RELEASE_AT_ONCE):
        _release(entry, allocation)


def _release(entry: Entry, allocation: Allocation) -> None:
    allocations.release(entry.c, allocation.allocation_id, entry.now_ns)
    announce_allocation(entry, msgspec.structs.replace(allocation, released=True))
