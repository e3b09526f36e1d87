"""The provider agent: offers this machine, answers demands, and sees each agreement through to its invoice.

A task of the node and a client of the same services that REST calls. It keeps nothing of its own on disk: which
agreements need serving is read from the market's records at every start, what they owe from the usage of their
activities, and what was billed from payment's. So a crash at any point ends in the same invoice.
"""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
import trio

from node.provider.deal import Deal
from node.provider.negotiators import Ready, Reject, Situation, default_chain, negotiate
from node.provider.presets import Preset, offer_constraints, offer_properties, presets_of
from node.provider.resources import ResourceLedger, this_machine
from p2p import codec
from protocols.activity.events import TOPIC as ACTIVITY_TOPIC
from protocols.activity.events import ActivityEvent
from protocols.ground.wakeup import Signal
from protocols.market.errors import MarketError, NotFound
from protocols.market.events import AgreementArrived, AgreementChanged, ProposalArrived
from protocols.market.messages import AGREEMENT_TOPIC, AgreementState, AgreementView, Role
from protocols.payment.networks import resolve_platform

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from node.parts import NodeParts
    from node.provider.resources import Machine
    from node.provider.runtimes import RuntimeDescriptor

POLL_TIMEOUT = 20.0
APPROVE_TIMEOUT = 10.0
"""Seconds for the requestor to commit after our approval (AGREEMENT_APPROVE_TIMEOUT of Golem's agent)."""
_PAUSES = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds between attempts when the market refuses."""


class ProviderAgent:
    """Offers, negotiates and serves; one for each node."""

    def __init__(self, node: NodeParts, runtimes: Mapping[str, RuntimeDescriptor], machine: Machine) -> None:
        self._node = node
        self._runtimes = runtimes
        self._log = structlog.get_logger("provider")
        self._chain = default_chain()
        self._cpu = machine.cpu
        self._share = machine.resources
        """What one agreement gets: the whole machine, as Golem's agent has it."""
        self._ledger = ResourceLedger(machine.resources)
        self._deals: dict[str, Deal] = {}
        self._changed = Signal()
        self._offers: dict[str, str] = {}

    @classmethod
    @contextlib.asynccontextmanager
    async def running(
        cls, node: NodeParts, runtimes: Mapping[str, RuntimeDescriptor], machine: Machine | None = None
    ) -> AsyncIterator[ProviderAgent]:
        """Be a provider while the context is open.

        Args:
            machine: what is offered; by default this machine, as the configuration limits it.
        """
        agent = cls(node, runtimes, machine or this_machine(node.config, node.config.data_dir))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(agent._follow_agreements)
            nursery.start_soon(agent._follow_activities)
            await agent._resume(nursery)
            for preset in presets_of(node.config, runtimes):
                nursery.start_soon(agent._offer, preset, nursery)
            try:
                yield agent
            finally:
                nursery.cancel_scope.cancel()
                with trio.CancelScope(shield=True), trio.move_on_after(2):
                    await agent._withdraw()

    @property
    def resources(self) -> ResourceLedger:
        """Return what is given away, and what is free."""
        return self._ledger

    # --- offering ---------------------------------------------------------------------------------------

    async def _offer(self, preset: Preset, nursery: trio.Nursery) -> None:
        """Keep a preset's offer in the market and answer what comes; a refusal is retried with pauses."""
        failures = 0
        while True:
            try:
                platform = resolve_platform(network=self._node.config.text("payment.network"))
                account = await self._node.payment.service.init_account(
                    self._node.key.node_id, platform, send=False, receive=True
                )
                offer = offer_properties(
                    preset,
                    self._runtimes[preset.runtime],
                    node_name=self._node.name,
                    subnet=self._node.config.text("provider.subnet"),
                    cpu=self._cpu,
                    share=self._share,
                    platforms={account.platform: account.address},
                    is_public=False,
                    note_interval=int(self._node.config["provider.debit-note-interval"]),
                )
                await self._serve_offer(preset, offer, nursery)
                failures = 0
            except MarketError as error:
                self._log.warning("offer refused by the market", preset=preset.name, error=str(error))
                await trio.sleep(_PAUSES[min(failures, len(_PAUSES) - 1)])
                failures += 1

    async def _serve_offer(self, preset: Preset, offer: dict[str, Any], nursery: trio.Nursery) -> None:
        """Subscribe one offer and serve it until it expires."""
        market, owner = self._node.market.service, self._node.key.node_id
        constraints = offer_constraints(self._node.config.text("provider.subnet"), self._node.clock.utc_ns())
        subscription = await market.subscribe_offer(owner, offer, constraints, ttl=math.inf)
        self._offers[preset.name] = subscription
        self._log.info("offer published", preset=preset.name, offer=subscription)
        await self._tell_free()
        while True:
            try:
                batch = await market.collect(owner, "offer", subscription, timeout=POLL_TIMEOUT, limit=5)
            except NotFound:
                return
            batch.confirm()
            for event in batch.events:
                match event:
                    case ProposalArrived():
                        nursery.start_soon(self._guarded, self._answer, subscription, offer, event)
                    case AgreementArrived():
                        nursery.start_soon(self._guarded, self._decide, event.agreement, nursery)

    async def _answer(self, subscription: str, offer: dict[str, Any], event: ProposalArrived) -> None:
        """Counter or reject a requestor's proposal."""
        market, owner = self._node.market.service, self._node.key.node_id
        proposal = event.proposal
        verdict = self._judge(proposal.properties, offer, proposal.issuer_id)
        try:
            if isinstance(verdict, Reject):
                reason = {
                    "message": verdict.message,
                    "golem.proposal.rejection.is-final": verdict.final,
                }
                await market.reject_proposal(owner, subscription, proposal.proposal_id, reason)
                self._log.info("proposal rejected", requestor=proposal.issuer_id, reason=verdict.message)
            else:
                constraints = offer_constraints(
                    self._node.config.text("provider.subnet"), self._node.clock.utc_ns()
                )
                await market.counter(owner, subscription, proposal.proposal_id, verdict.offer, constraints)
        except MarketError as error:
            self._log.info("proposal not answered", requestor=proposal.issuer_id, reason=str(error))

    def _judge(self, demand: str, offer: dict[str, Any], requestor: str) -> Any:
        situation = Situation(self._node.clock.utc_ns(), requestor, self._ledger.fits(self._share))
        return negotiate(self._chain, msgspec.json.decode(demand), offer, situation)

    async def _decide(self, view: AgreementView, nursery: trio.Nursery) -> None:
        """Approve or reject an agreement that a requestor proposes."""
        market, owner = self._node.market.service, self._node.key.node_id
        agreed = msgspec.json.decode(view.offer_properties)
        verdict = self._judge(view.demand_properties, agreed, view.requestor_id)
        try:
            if not isinstance(verdict, Ready):
                message = verdict.message if isinstance(verdict, Reject) else "negotiations aren't finished"
                await market.reject_agreement(owner, view.agreement_id, {"message": message})
                return
            if not self._ledger.reserve(view.agreement_id, self._share):
                await market.reject_agreement(
                    owner, view.agreement_id, {"message": "no capacity: all that this node offers is in use"}
                )
                return
            try:
                await market.approve_agreement(owner, view.agreement_id, timeout=APPROVE_TIMEOUT)
            except MarketError:
                self._ledger.release(view.agreement_id)
                raise
        except MarketError as error:
            self._log.info("agreement not approved", agreement=view.agreement_id, reason=str(error))
            return
        await self._tell_free()
        self._log.info("agreement approved", agreement=view.agreement_id, requestor=view.requestor_id)
        approved = await market.agreement(owner, view.agreement_id)
        self._begin(approved, nursery)

    async def _tell_free(self) -> None:
        """Tell the market how many more agreements fit: requestors see it in the lease."""
        free = self._ledger.fits(self._share)
        for subscription in self._offers.values():
            with contextlib.suppress(MarketError):
                await self._node.market.service.set_free(self._node.key.node_id, subscription, free)

    async def _withdraw(self) -> None:
        for subscription in self._offers.values():
            with contextlib.suppress(MarketError):
                await self._node.market.service.unsubscribe_offer(self._node.key.node_id, subscription)

    async def _guarded(self, task: Callable[..., Awaitable[None]], *args: Any) -> None:
        """Run a task; a fault of ours in one deal is logged and leaves the others alone."""
        try:
            await task(*args)
        except Exception:
            self._log.exception("provider task failed", task=task.__name__)

    # --- serving ----------------------------------------------------------------------------------------

    async def _resume(self, nursery: trio.Nursery) -> None:
        """Take up agreements of an earlier run: those that stand, and those that ended without a bill."""
        market = self._node.market.service
        for state in (AgreementState.APPROVED, AgreementState.TERMINATED):
            for view in await market.agreements(self._node.key.node_id, role=Role.PROVIDER, states=(state,)):
                if not await self._node.payment.service.invoices(
                    self._node.key.node_id, agreement_id=view.agreement_id
                ):
                    self._ledger.reserve(view.agreement_id, self._share)
                    self._begin(view, nursery)

    def _begin(self, view: AgreementView, nursery: trio.Nursery) -> None:
        if view.agreement_id not in self._deals:
            deal = Deal(self._node, view, self._log.bind(agreement=view.agreement_id[:16]))
            self._deals[view.agreement_id] = deal
            nursery.start_soon(self._guarded, self._serve, deal)

    async def _serve(self, deal: Deal) -> None:
        try:
            await deal.run(released=self._release)
        finally:
            self._deals.pop(deal.agreement_id, None)

    async def _release(self, agreement_id: str) -> None:
        """Give back what an ended agreement held."""
        if self._ledger.release(agreement_id):
            await self._tell_free()

    async def _follow_agreements(self) -> None:
        async with self._node.bus.subscribe(AGREEMENT_TOPIC) as items:
            async for item in items:
                change = codec.decode(item, AgreementChanged)
                deal = self._deals.get(change.agreement_id)
                if deal is not None and change.role is Role.PROVIDER:
                    deal.wake()

    async def _follow_activities(self) -> None:
        async with self._node.bus.subscribe(ACTIVITY_TOPIC) as items:
            async for item in items:
                event: Any = codec.decode(item, ActivityEvent)  # type: ignore[arg-type]  # a union
                deal = self._deals.get(event.agreement_id)
                if deal is not None:
                    deal.wake()
