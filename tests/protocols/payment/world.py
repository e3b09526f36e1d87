"""A small world for payment's tests: nodes with identities, a bus between them, a chain in memory, agreements.

Time is virtual. A node can be stopped, as by SIGKILL, and started again on the same database file.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import structlog
import trio
import trio.testing

from p2p.bus.peer import PeerBus
from p2p.bus.router import LocalBus
from p2p.entropy import SeededEntropy
from p2p.identity import PrivateKey, recover
from p2p.protocol import NodeContext
from p2p.storage import InlineDatabase
from p2p.testing.clock import VirtualClock
from p2p.testing.overlay import MemoryNetwork
from protocols.payment.handler import PaymentProtocol
from protocols.payment.networks import NETWORKS, Network, Platform, parse_platform
from protocols.payment.records import Agreement, Status
from protocols.payment.settings import Settings
from protocols.payment.testing import ModelChain, ModelDriver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

    from p2p.storage import Database
    from protocols.payment.api import PaymentService
    from protocols.payment.drivers.base import PaymentDriver

GLM = 10**18
DEVNET = parse_platform("erc20-devnet-tglm")
RICH = 1000 * GLM


class World:
    """What the nodes of a test share."""

    def __init__(self, *networks: Network, seed: int = 1) -> None:
        networks = networks or (NETWORKS["devnet"],)
        self.clock = VirtualClock()
        self.entropy = SeededEntropy(seed, "world")
        self.chains = {n.platform: ModelChain(self._seconds, network=n) for n in networks}
        self.chain = self.chains[networks[0].platform]
        self.overlays = MemoryNetwork(self.clock, SeededEntropy(seed, "network"))
        self.agreements: dict[str, Agreement] = {}
        self.activities: dict[str, str] = {}
        self.platform = parse_platform(networks[0].platform)

    def _seconds(self) -> int:
        return self.clock.utc_ns() // 10**9

    def agree(
        self,
        requestor: Node,
        provider: Node,
        agreement_id: str = "a1",
        *,
        activities: tuple[str, ...] = ("act1",),
        **changes: Any,
    ) -> Agreement:
        """Make an agreement that both sides know of, with some activities."""
        facts: dict[str, Any] = {
            "agreement_id": agreement_id,
            "requestor_id": requestor.id,
            "provider_id": provider.id,
            "platform": str(self.platform),
            "payer_addr": requestor.id,
            "payee_addr": provider.id,
        }
        agreement = Agreement(**facts | changes)
        self.agreements[agreement_id] = agreement
        for activity_id in activities:
            self.activities[activity_id] = agreement_id
        return agreement

    def on_chain(self, node: Node) -> int:
        """Return the wei of tokens that a node's address holds."""
        return self.chain.account(node.id).token_wei


class Facts:
    """The world's agreements, as one node sees them."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def agreement(self, owner: str, role: str, agreement_id: str) -> Agreement | None:
        await trio.lowlevel.checkpoint()
        found = self._world.agreements.get(agreement_id)
        side = found and (found.requestor_id if role == "R" else found.provider_id)
        return found if side == owner else None

    async def agreement_of_activity(self, activity_id: str) -> str | None:
        await trio.lowlevel.checkpoint()
        return self._world.activities.get(activity_id)


class Factory:
    """Gives out drivers on the world's chain."""

    name = "erc20"

    def __init__(self, world: World, wrap: Callable[[PaymentDriver], PaymentDriver] | None = None) -> None:
        self._world = world
        self._wrap = wrap or (lambda driver: driver)

    def platforms(self) -> tuple[Platform, ...]:
        return tuple(parse_platform(name) for name in self._world.chains)

    @contextlib.asynccontextmanager
    async def open(self, platform: Platform, settings: Mapping[str, str]) -> AsyncIterator[PaymentDriver]:
        yield self._wrap(ModelDriver(self._world.chains[str(platform)]))


class Node:
    """One node: an identity, and a database that outlives it."""

    def __init__(self, world: World, name: str, path: Path | None = None, *, rich: bool = False) -> None:
        self.world = world
        self.name = name
        self.key = PrivateKey.generate(world.entropy)
        self.id = self.key.node_id
        self.keys: dict[str, PrivateKey] = {self.id: self.key}
        self.path = path / f"{name}.db" if path else None
        self.memory = None if path else InlineDatabase()
        self.wrap: Callable[[PaymentDriver], PaymentDriver] | None = None
        self.wrap_database: Callable[[Database], Database] = lambda database: database
        self.settings = Settings(check_funds=True, poll_s=0.25)
        self.starts = 0
        self.bus: LocalBus
        if rich:
            for chain in world.chains.values():
                chain.give(self.id, coin_wei=RICH, token_wei=RICH)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[PaymentService]:
        """Run the node; leaving the block kills it."""
        async with self.serving() as protocol:
            yield protocol.service

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[PaymentProtocol]:
        """Run the node, and give its protocol."""
        self.starts += 1
        database = self.memory or InlineDatabase(str(self.path))
        overlay = self.world.overlays.overlay(self.key)
        self.bus = LocalBus(self.id)
        peers = PeerBus(overlay, self.bus)
        self.bus.attach_peers(peers)
        ctx = NodeContext(
            overlay=overlay,
            bus=self.bus,
            broadcast=None,  # type: ignore[arg-type]
            database=self.wrap_database(database),
            clock=self.world.clock,
            entropy=SeededEntropy(self.starts, self.name),
            signer=self.key,
            verifier=recover,
            settings={},
            log=structlog.get_logger("payment"),
        )
        protocol = PaymentProtocol(
            self.settings,
            drivers=[Factory(self.world, self.wrap)],
            signers=self.keys.get,
            facts=Facts(self.world),
        )
        try:
            async with overlay.running(), peers.running(), protocol.running(ctx):
                yield protocol
        finally:
            if self.memory is None:
                database.close()


async def until(predicate: Callable[[], Any], *, within: float = 600.0, every: float = 0.1) -> None:
    """Wait on virtual time until an asynchronous predicate holds; the autojump clock makes it cheap."""
    with trio.fail_after(within):
        while not await predicate():  # noqa: ASYNC110 - what is waited for has no event
            await trio.sleep(every)


class Deal:
    """Two running nodes with an agreement, and the steps that most tests need."""

    def __init__(
        self, world: World, requestor: Node, provider: Node, r: PaymentService, p: PaymentService
    ) -> None:
        self.world, self.requestor, self.provider, self.r, self.p = world, requestor, provider, r, p
        self.allocation_id = ""

    async def allocate(self, total_wei: int = 100 * GLM) -> str:
        made = await self.r.create_allocation(
            self.requestor.id, platform=self.world.platform, total_wei=total_wei
        )
        self.allocation_id = made.allocation_id
        return made.allocation_id

    async def note(self, total_wei: int, activity_id: str = "act1", *, due_ns: int | None = None) -> str:
        """Issue a debit note and send it."""
        note = await self.p.issue_debit_note(
            self.provider.id, activity_id=activity_id, total_due_wei=total_wei, due_ns=due_ns
        )
        await self.p.send_debit_note(self.provider.id, note.debit_note_id)
        return note.debit_note_id

    async def invoice(self, amount_wei: int, agreement_id: str = "a1") -> str:
        """Issue an invoice and send it."""
        invoice = await self.p.issue_invoice(
            self.provider.id, agreement_id=agreement_id, amount_wei=amount_wei
        )
        await self.p.send_invoice(self.provider.id, invoice.invoice_id)
        return invoice.invoice_id

    async def accept_note(self, debit_note_id: str, total_wei: int) -> None:
        await self.r.accept_debit_note(
            self.requestor.id, debit_note_id, amount_wei=total_wei, allocation_id=self.allocation_id
        )

    async def accept_invoice(self, invoice_id: str, amount_wei: int) -> None:
        await self.r.accept_invoice(
            self.requestor.id, invoice_id, amount_wei=amount_wei, allocation_id=self.allocation_id
        )

    async def accepted_invoice(self, amount_wei: int) -> str:
        """Bill an amount and have it accepted."""
        invoice_id = await self.invoice(amount_wei)
        await self.accept_invoice(invoice_id, amount_wei)
        return invoice_id

    async def settled(self, invoice_id: str) -> None:
        """Wait until the provider's copy is settled."""

        async def is_settled() -> bool:
            found = await self.p.invoice(self.provider.id, invoice_id)
            return found.status is Status.SETTLED

        await until(is_settled)

    async def clean(self) -> None:
        """Check both sides' books."""
        for service in (self.r, self.p):
            audit = await service.audit()
            assert audit.clean, audit


@contextlib.asynccontextmanager
async def deal(world: World | None = None, **changes: Any) -> AsyncIterator[Deal]:
    """Run a rich requestor and a provider with one agreement and one activity."""
    world = world or World()
    requestor, provider = Node(world, "requestor", rich=True), Node(world, "provider")
    world.agree(requestor, provider, **changes)
    async with requestor.running() as r, provider.running() as p:
        made = Deal(world, requestor, provider, r, p)
        await made.allocate()
        yield made
