"""Lanes: getting transfers mined, one batch at a time for each paying address of a network.

A lane's state is in the tables, so that a crash between any two steps loses and repeats nothing:

    transfers wait ─prepare─▶ signed, stored ─broadcast─▶ sent ─receipt at depth─▶ booked as paid
          ▲                                                 │ unmined too long: another version, same nonce
          └── reverted, or the nonce went to a foreign transaction ──┘

What is signed is stored before it is sent, and sent again after a restart: the same bytes cannot pay twice. A
new nonce is taken only when the batch before it is decided, and transfers are signed anew only when none of
their versions can be mined any more (payment reference §12).
"""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from protocols.payment.drivers.base import Transfer
from protocols.payment.drivers.errors import (
    ChainUnavailable,
    DriverError,
    InsufficientToken,
    NonceTooHigh,
    NonceTooLow,
    TransactionRefused,
    Underpriced,
)
from protocols.payment.errors import AccountUnusable, PaymentError, Unavailable
from protocols.payment.payout import book_paid
from protocols.payment.store import batches, orders

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from p2p.identity import Signer
    from p2p.storage import Connection
    from protocols.payment.books import Books, Entry
    from protocols.payment.chains import Chains
    from protocols.payment.drivers.base import Funding, PaymentDriver, Receipt, SignedTransaction
    from protocols.payment.networks import Platform
    from protocols.payment.store.batches import Batch, Version
    from protocols.payment.store.orders import TransferRow
    from protocols.payment.troubles import Troubles

_FIRST_PAUSE: Final = 20.0
"""Before trying again after a wallet lacked coin or tokens; half as long again each time."""
_FIRST_PAUSE_OF_SILENCE: Final = 1.0
"""Before asking an endpoint again that gave no answer."""
_LONGEST_PAUSE: Final = 300.0
_LONGEST_REVERT_PAUSE: Final = 3600.0
"""Each transaction that reverts costs a fee."""
_RESEND: Final = 15.0
"""Seconds between two broadcasts of the same bytes: a node may have dropped them."""
_FOREIGN_TIMEOUTS: Final = 4
"""Transaction timeouts that a used-up nonce without a receipt is watched before it counts as foreign."""
_FUND_TIMEOUTS: Final = 2
"""Transaction timeouts that funding waits for payments in flight; they may wait for the very coin."""


class _Reverted(TransactionRefused):
    """A payment transaction was mined and reverted: it cost a fee and paid nothing."""

    def __init__(self, tx_hash: str, pause: float) -> None:
        super().__init__(f"payment transaction {tx_hash} reverted and is tried again in {pause:.0f} s")
        self.pause = pause


class _Fate(msgspec.Struct, frozen=True):
    """A mined version of a transaction."""

    tx_hash: str
    deep: bool
    """Whether it lies as deep as the network asks, and is decided."""


class Lanes:
    """All lanes of this node."""

    def __init__(self, books: Books, chains: Chains, troubles: Troubles) -> None:
        self._books = books
        self._chains = chains
        self._troubles = troubles
        self._lanes: dict[tuple[str, str], _Lane] = {}
        self._running: set[tuple[str, str]] = set()

    async def run(self) -> None:
        """Work on all lanes until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                ticket = self._books.lane_signal.ticket()
                for network, sender, _, _ in await self._books.read(batches.busy_lanes):
                    if (network, sender) not in self._running:
                        self._running.add((network, sender))
                        nursery.start_soon(self._work, self._lane(network, sender))
                await ticket.wait()

    async def fund(self, owner: str, platform: Platform, progress: Callable[[str], None] | None) -> Funding:
        """Get test money for an address while nothing of its lane is in flight."""
        driver = await self._chains.driver(platform)
        signer = _key(self._books, owner)
        lane = self._lane(platform.network, owner)
        patience = _FUND_TIMEOUTS * driver.network.transaction_timeout_s
        with trio.move_on_after(patience):
            while True:
                ticket = self._books.lane_signal.ticket()
                if await self._books.read(lambda c: batches.open_batch(c, *lane.key)) is None:
                    break
                await ticket.wait()
        own = await self._books.read(lambda c: batches.highest_nonce(c, *lane.key))
        in_flight = await self._books.read(lambda c: batches.open_batch(c, *lane.key)) is not None
        async with contextlib.nullcontext() if in_flight else lane.lock:
            nonce = await driver.next_nonce(owner)
            if in_flight and own is not None:
                nonce = max(nonce, own + 1)
            funding = await driver.fund(signer, nonce, progress)
        self._books.lane_signal.notify()
        return funding

    def _lane(self, network: str, sender: str) -> _Lane:
        key = (network, sender)
        if key not in self._lanes:
            self._lanes[key] = _Lane(self._books, self._chains, self._troubles, key)
        return self._lanes[key]

    async def _work(self, lane: _Lane) -> None:
        failures = 0
        try:
            while True:
                ticket = self._books.lane_signal.ticket()
                found = await self._books.read(lane.purpose)
                if found is None:
                    return
                platform, owner = found
                try:
                    async with lane.lock:
                        pause = await lane.step()
                except (DriverError, PaymentError) as error:
                    failures += 1
                    await self._troubles.report(platform, owner, lane.key[1], error)
                    silent = isinstance(error, ChainUnavailable | Unavailable)
                    first = _FIRST_PAUSE_OF_SILENCE if silent else _FIRST_PAUSE
                    pause = min(_LONGEST_PAUSE, first * 1.5 ** min(failures - 1, 20))
                    if isinstance(error, _Reverted):
                        await trio.sleep(error.pause)
                    else:
                        with trio.move_on_after(pause):
                            await ticket.wait()  # a new order, or new money, is a reason to try at once
                else:
                    failures = 0
                    await trio.sleep(pause)
        finally:
            self._running.discard(lane.key)
            self._books.lane_signal.notify()  # what came while this ended is looked at again


class _Lane:
    """One lane's next step, whatever its state in the tables is."""

    def __init__(self, books: Books, chains: Chains, troubles: Troubles, key: tuple[str, str]) -> None:
        self.key = key
        self.lock = trio.Lock()
        """Held for a step, and by whoever else uses the address's next nonce."""
        self._books = books
        self._chains = chains
        self._troubles = troubles
        self._sent_at: dict[str, float] = {}
        self._gone_since: dict[int, float] = {}
        """Nonces that are used up while none of our versions has a receipt."""
        self._reverts = 0

    def purpose(self, c: Connection) -> tuple[str, str] | None:
        """Return (platform, owner) of what the lane is to do next, or None if there is nothing."""
        rows = batches.busy_lanes(c)
        mine = [
            (platform, owner) for network, sender, platform, owner in rows if (network, sender) == self.key
        ]
        return mine[0] if mine else None

    async def step(self) -> float:
        """Do one step, and return how long to wait before the next. Raises DriverError, PaymentError."""
        batch = await self._books.read(lambda c: batches.open_batch(c, *self.key))
        return await (self._gather() if batch is None else self._push(batch))

    # --- a new batch ----------------------------------------------------------------------------------------

    async def _gather(self) -> float:
        network, sender = self.key
        first = await self._books.read(lambda c: orders.waiting_transfers(c, network, sender, None, 1))
        if not first:
            return 0.0
        platform = first[0].platform
        driver = await self._chains.driver(platform)
        most = driver.network.max_batch
        waiting = await self._books.read(
            lambda c: orders.waiting_transfers(c, network, sender, platform, most)
        )
        signer = _key(self._books, sender)
        nonce = await self._next_nonce(driver)
        chosen, signed = await _prepare(driver, waiting, nonce, signer)

        def store(entry: Entry) -> None:
            batch_id = batches.insert_batch(
                entry.c,
                owner=first[0].owner,
                platform=platform,
                network=network,
                sender=sender,
                now_ns=entry.now_ns,
            )
            for one in signed:
                batches.insert_version(entry.c, batch_id, network, one, entry.now_ns)
            orders.assign_batch(entry.c, [row.transfer_id for row in chosen], batch_id)

        await self._books.commit(store)
        return 0.0

    async def _next_nonce(self, driver: PaymentDriver) -> int:
        """Return the nonce to sign with: the chain's, once the chain has all that we ever sent."""
        network, sender = self.key
        on_chain = await driver.next_nonce(sender)
        own = await self._books.read(lambda c: batches.highest_nonce(c, network, sender))
        if own is None or own < on_chain:
            return on_chain
        # The endpoint lags, or a reorganisation took something back. What we have sent is sent again.
        for version in await self._books.read(lambda c: batches.versions_from(c, network, sender, on_chain)):
            with contextlib.suppress(NonceTooLow, NonceTooHigh, Underpriced):
                await driver.broadcast(version.transaction.raw)
        raise ChainUnavailable(
            f"the chain has {on_chain} transactions of {sender} and we have sent {own + 1}: its node lags, or "
            "the chain was reset"
        )

    # --- an open batch --------------------------------------------------------------------------------------

    async def _push(self, batch: Batch) -> float:
        driver = await self._chains.driver(batch.platform)
        poll = self._books.settings.poll_of(driver.network)
        found = await self._books.read(lambda c: batches.versions(c, batch.batch_id))
        carrying = max(version.transaction.nonce for version in found)
        for nonce in sorted({version.transaction.nonce for version in found}):
            versions = [version for version in found if version.transaction.nonce == nonce]
            mined = await self._receipt(driver, versions)
            if mined is None:
                pause = await self._urge(driver, batch, versions, last=nonce == carrying)
                if pause is not None:
                    return pause
            elif nonce == carrying and mined.deep:
                await self._conclude(batch, mined.tx_hash)
                return 0.0
        return poll

    async def _receipt(self, driver: PaymentDriver, versions: Sequence[Version]) -> _Fate | None:
        """Return which version is mined, or None while none is."""
        for version in versions:
            if version.succeeded is not None:
                return _Fate(version.transaction.tx_hash, deep=True)
        for version in reversed(versions):
            receipt = await driver.receipt(version.transaction.tx_hash)
            if receipt is not None:
                self._gone_since.pop(version.transaction.nonce, None)
                deep = receipt.confirmations >= driver.network.confirmations
                if deep:
                    await self._books.commit(functools.partial(_store_receipt, receipt))
                return _Fate(receipt.tx_hash, deep)
        return None

    async def _urge(
        self, driver: PaymentDriver, batch: Batch, versions: Sequence[Version], *, last: bool
    ) -> float | None:
        """Get a nonce's transaction mined: send it, send it again, raise its fee, or find it is hopeless.

        Returns how long to wait, or None when later nonces may be looked at too.
        """
        newest = versions[-1].transaction
        now = trio.current_time()
        age_s = (self._books.now_ns - versions[-1].created_ns) / 1e9
        gone = self._gone_since.get(newest.nonce)
        if gone is not None and now - gone >= _FOREIGN_TIMEOUTS * driver.network.transaction_timeout_s:
            return await self._give_up(driver, batch, newest.nonce) if last else None
        sent_at = self._sent_at.get(newest.tx_hash)
        if sent_at is None or now - sent_at >= _RESEND:
            await self._send(driver, newest)
        elif age_s >= driver.network.transaction_timeout_s and gone is None:
            replacement = await driver.replace(newest, _key(self._books, self.key[1]))
            await self._books.commit(
                lambda entry: batches.insert_version(
                    entry.c, batch.batch_id, self.key[0], replacement, entry.now_ns
                )
            )
            return 0.0
        return None

    async def _send(self, driver: PaymentDriver, transaction: SignedTransaction) -> None:
        try:
            await driver.broadcast(transaction.raw)
        except NonceTooLow:
            # Another version of ours (then there is a receipt soon), or a foreign transaction.
            self._gone_since.setdefault(transaction.nonce, trio.current_time())
        except (NonceTooHigh, Underpriced) as error:
            self._books.ctx.log.info("transaction waits", tx_hash=transaction.tx_hash, error=str(error))
        self._sent_at[transaction.tx_hash] = trio.current_time()
        await self._books.commit(
            lambda entry: batches.set_sent(entry.c, transaction.tx_hash, entry.now_ns), durable=False
        )

    async def _conclude(self, batch: Batch, tx_hash: str) -> None:
        """Book a batch whose last transaction is decided. Raises _Reverted."""
        current = await self._books.read(lambda c: batches.versions(c, batch.batch_id))
        (winner,) = (v for v in current if v.transaction.tx_hash == tx_hash)
        rows = await self._books.read(lambda c: orders.batch_transfers(c, batch.batch_id))
        keys = {row.owner: _key(self._books, row.owner) for row in rows}

        def book(entry: Entry) -> None:
            if winner.succeeded:
                for row in rows:
                    book_paid(entry, row, winner.transaction.tx_hash, batch.sender, keys[row.owner])
                batches.close_batch(entry.c, batch.batch_id, "paid", entry.now_ns)
            else:
                orders.assign_batch(entry.c, [row.transfer_id for row in rows], None)
                batches.close_batch(entry.c, batch.batch_id, "failed", entry.now_ns)
            entry.transfers = True

        await self._books.commit(book)
        self._forget(current)
        if not winner.succeeded:
            self._reverts += 1
            raise _Reverted(tx_hash, min(_LONGEST_REVERT_PAUSE, _FIRST_PAUSE * 2.0 ** min(self._reverts, 10)))
        self._reverts = 0
        await self._troubles.over(batch.platform, batch.owner, batch.sender)

    async def _give_up(self, driver: PaymentDriver, batch: Batch, nonce: int) -> float | None:
        """Free a batch whose nonce went to a foreign transaction, so that its transfers are signed anew."""
        if await driver.next_nonce(batch.sender) <= nonce:
            self._gone_since.pop(nonce, None)
            return None
        current = await self._books.read(lambda c: batches.versions(c, batch.batch_id))

        def free(entry: Entry) -> None:
            rows = orders.batch_transfers(entry.c, batch.batch_id)
            orders.assign_batch(entry.c, [row.transfer_id for row in rows], None)
            batches.close_batch(entry.c, batch.batch_id, "lost", entry.now_ns)
            entry.transfers = True

        self._books.ctx.log.error(
            "another program uses this wallet: a transaction of ours can never be mined and is signed anew",
            sender=batch.sender,
            nonce=nonce,
        )
        await self._books.commit(free)
        self._forget(current)
        return 0.0

    def _forget(self, versions: Sequence[Version]) -> None:
        for version in versions:
            self._sent_at.pop(version.transaction.tx_hash, None)
            self._gone_since.pop(version.transaction.nonce, None)


def _store_receipt(receipt: Receipt, entry: Entry) -> None:
    batches.set_receipt(entry.c, receipt)


async def _prepare(
    driver: PaymentDriver, waiting: Sequence[TransferRow], nonce: int, signer: Signer
) -> tuple[Sequence[TransferRow], tuple[SignedTransaction, ...]]:
    """Sign for as many of the transfers as the wallet can pay, the oldest first."""
    try:
        return waiting, await driver.prepare(_transfers(waiting), nonce, signer)
    except InsufficientToken as error:
        affordable: list[TransferRow] = []
        left = error.available_wei
        for row in waiting:
            if row.amount_wei <= left:
                affordable.append(row)
                left -= row.amount_wei
        if not affordable or len(affordable) == len(waiting):
            raise
        return affordable, await driver.prepare(_transfers(affordable), nonce, signer)


def _transfers(rows: Sequence[TransferRow]) -> list[Transfer]:
    return [Transfer(row.transfer_id, row.payee_addr, row.amount_wei) for row in rows]


def _key(books: Books, address: str) -> Signer:
    signer = books.signer(address)
    if signer is None:
        raise AccountUnusable(f"the key of {address} is not here or locked; unlock it to pay")
    return signer
