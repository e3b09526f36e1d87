"""Accounts: which addresses we send from and receive at, what they hold, and getting test money."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from p2p.identity import InvalidNodeId, parse_node_id
from protocols.payment.chains import chain_answers
from protocols.payment.core.ledger import sum_totals
from protocols.payment.core.spending import reserved
from protocols.payment.errors import AccountUnusable
from protocols.payment.records import Account, Wallet
from protocols.payment.store import allocations, ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from p2p.storage import Connection
    from protocols.payment.books import Books
    from protocols.payment.chains import Chains
    from protocols.payment.drivers.base import Balance, Funding, PaymentDriver
    from protocols.payment.lanes import Lanes
    from protocols.payment.networks import Platform
    from protocols.payment.records import Role, Totals


class Accounts:
    """Commands and questions about accounts."""

    def __init__(self, books: Books, chains: Chains, lanes: Lanes) -> None:
        self._books = books
        self._chains = chains
        self._lanes = lanes

    async def init_account(
        self, owner: str, platform: Platform, *, send: bool, receive: bool, address: str | None = None
    ) -> Account:
        self._chains.check_served(platform)
        try:
            wallet = parse_node_id(address or owner)
        except InvalidNodeId as error:
            raise AccountUnusable(str(error)) from error
        if send and self._books.signer(wallet) is None:
            raise AccountUnusable(f"Account {wallet} not found in active accounts")
        account = Account(owner=owner, address=wallet, platform=str(platform), send=send, receive=receive)
        return await self._books.commit(lambda entry: allocations.keep_account(entry.c, account))

    async def accounts(
        self, owner: str | None = None, *, send: bool = False, receive: bool = False
    ) -> Sequence[Account]:
        found = await self._books.read(lambda c: allocations.accounts(c, owner))
        return [a for a in found if (a.send or not send) and (a.receive or not receive)]

    async def fund(
        self, owner: str, platform: Platform, *, progress: Callable[[str], None] | None = None
    ) -> Funding:
        await self.init_account(owner, platform, send=True, receive=True)
        return await self._lanes.fund(owner, platform, progress)

    async def balance(self, address: str, platform: Platform) -> Balance:
        driver = await self._chains.driver(platform)
        with chain_answers():
            return await driver.balance(address)

    async def wallet(self, owner: str, platform: Platform) -> Wallet:
        held = await self.balance(owner, platform)
        name, now_ns = str(platform), self._books.now_ns

        def figures(c: Connection) -> tuple[int, Totals, Totals]:
            live = allocations.wallet_allocations(c, name, owner, now_ns)

            def side(role: Role, column: Literal["payer_addr", "payee_addr"]) -> Totals:
                return sum_totals(ledger.sums(c, owner, role, name, column, owner))

            return (
                reserved(live, ledger.owed(c, name, owner)),
                side("R", "payer_addr"),
                side("P", "payee_addr"),
            )

        spoken_for, outgoing, incoming = await self._books.read(figures)
        return Wallet(
            platform=name,
            address=owner,
            token_wei=held.token_wei,
            gas_wei=held.gas_wei,
            block_number=held.block_number,
            block_timestamp=held.block_timestamp,
            reserved_wei=spoken_for,
            outgoing_due_wei=outgoing.due,
            outgoing_accepted_wei=outgoing.accepted,
            outgoing_paid_wei=outgoing.paid,
            incoming_due_wei=incoming.due,
            incoming_accepted_wei=incoming.accepted,
            incoming_paid_wei=incoming.paid,
        )

    async def driver(self, platform: Platform) -> PaymentDriver:
        return await self._chains.driver(platform)

    def platforms(self) -> Sequence[Platform]:
        return self._chains.platforms()
