"""One job on the market: hires providers, works through the tasks, accepts the bills, waits for the money.

A client of the node's own services, as an SDK is of its REST API. Stopping it, by error or on request, still
pays for finished work: agreements are ended, invoices awaited and accepted, and the settlement seen through.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
import trio

from node.requestor.bills import estimate, most_owed, owed_each_second, price_of_hour
from node.requestor.job import RUNTIME, JobError, JobProgress, JobSpec, ProviderReport, TaskBoard, TaskState
from node.requestor.worker import Hired, work
from p2p.bus import BusError
from protocols.files.errors import FilesError
from protocols.ground.money import format_amount, parse_amount
from protocols.ground.times import SECOND, format_time
from protocols.ground.wakeup import Signal
from protocols.market.errors import MarketError
from protocols.market.events import ProposalArrived, ProposalRejected
from protocols.market.reasons import is_final
from protocols.payment.drivers.errors import DriverError
from protocols.payment.errors import PaymentError
from protocols.payment.networks import resolve_platform

if TYPE_CHECKING:
    from collections.abc import Sequence

    from node.parts import NodeParts
    from node.requestor.pending import PendingBills
    from p2p.identity import NodeId
    from protocols.market.events import Proposal
    from protocols.payment.networks import Platform

APPROVAL_TIMEOUT = 15.0
"""Seconds that a provider has to approve an agreement."""
INVOICE_TIMEOUT = 30.0
"""Seconds to wait for invoices once the work is over."""
LAST_REFUSAL = 2
"""How often a bill is found not to be payable, such as for a budget that is too small, before it is given up."""
SETTLE_TIMEOUT = 120.0
"""Seconds to wait for accepted bills to be paid on chain; paying goes on behind after that."""
AGREEMENT_LIFE = 3600
ESTIMATE_GRAIN = 10**11
"""Wei to which an estimate is rounded: more digits would pretend to know them."""
NO_PROVIDER_AFTER = 20.0
"""Seconds without a single offer after which a job gives up."""
IDLE_AFTER = 90.0
"""Seconds without any provider at work after which a job gives up."""
PAUSES = (5.0, 10.0, 20.0, 40.0, 60.0)
"""Seconds for which a provider that declined or failed is not asked again: the longer the more often it did."""

_EXPECTED = (JobError, MarketError, PaymentError, DriverError, FilesError, BusError, OSError)


class Job:
    """A running job."""

    def __init__(self, node: NodeParts, spec: JobSpec, bills: PendingBills) -> None:
        spec.check()
        self._bills = bills
        self._node = node
        self._spec = spec
        self._me: NodeId = node.key.node_id
        self._log = structlog.get_logger("job")
        self._board = TaskBoard(spec.tasks)
        self._allocation = ""
        self._changed = Signal()
        self._started = self._idle_since = trio.current_time()
        self._last_refusal = "nobody answered"
        self._phase, self._note, self._error = "starting", "", ""
        self._hired: dict[str, Hired] = {}
        """By agreement id."""
        self._candidates: dict[str, Proposal] = {}
        """Providers' answers to our demand, by provider."""
        self._avoid: dict[str, float] = {}
        self._setbacks: Counter[str] = Counter()
        """How often each provider declined or failed."""
        self._asked: dict[str, str] = {}
        """Our counter-proposals that are not answered yet, and to whom they went."""
        self._seen: set[str] = set()
        self._busy: set[str] = set()
        self._stop = trio.CancelScope()
        self._settling = trio.CancelScope(shield=True)
        self._stopped = False

    # --- for whoever watches ----------------------------------------------------------------------------

    @property
    def changed(self) -> Signal:
        """Return what is notified when the progress changes."""
        return self._changed

    def stop(self) -> None:
        """Give the work up; what is finished is still paid."""
        self._stopped = True
        self._stop.cancel()

    def hurry(self, seconds: float) -> None:
        """Give the work up, and the waiting for bills after `seconds`: the node is going down."""
        self.stop()
        self._settling.deadline = trio.current_time() + seconds

    def progress(self) -> JobProgress:
        """Return how it is doing."""
        count = self._board.count
        by_provider: dict[str, list[Hired]] = {}
        for hired in self._hired.values():
            by_provider.setdefault(hired.provider, []).append(hired)
        return JobProgress(
            phase=self._phase,
            offers=len(self._seen),
            agreements=len(self._hired),
            tasks=self._spec.tasks,
            running=count(TaskState.RUNNING),
            done=count(TaskState.DONE),
            elapsed=trio.current_time() - self._started,
            cost=format_amount(sum(hired.accepted_wei for hired in self._hired.values())),
            running_cost=format_amount(sum(self._running_cost(hired) for hired in self._hired.values())),
            providers=tuple(self._report(provider, parts) for provider, parts in by_provider.items()),
            note=self._note,
            error=self._error,
        )

    def _running_cost(self, hired: Hired) -> int:
        if hired.invoiced or hired.state == "lost":
            return hired.accepted_wei
        now = trio.current_time()
        guess = estimate(hired.offer, hired.seconds(now), hired.activities)
        return max(hired.accepted_wei, guess // ESTIMATE_GRAIN * ESTIMATE_GRAIN)

    def _report(self, provider: str, parts: Sequence[Hired]) -> ProviderReport:
        last = parts[-1]
        return ProviderReport(
            node_id=provider,
            name=last.name,
            state=last.state,
            agreement_id=last.agreement_id,
            task=last.task,
            done=self._board.done_by(provider),
            cost=format_amount(sum(part.accepted_wei for part in parts)),
            paid=format_amount(sum(part.paid_wei for part in parts)),
            balance_before=format_amount(parts[0].balance_before)
            if parts[0].balance_before is not None
            else "",
            balance_after=format_amount(last.balance_after) if last.balance_after is not None else "",
            transactions=tuple(tx for part in parts for tx in part.transactions),
            error=last.error,
        )

    # --- the walk ---------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run the job to its end; the outcome is in `progress()`."""
        try:
            await self._walk()
        except* _EXPECTED as group:
            self._error = self._error or str(_first_leaf(group))
        except* Exception as group:
            # A fault of ours ends the job, never the node.
            self._log.exception("job failed")
            self._error = f"internal error: {_first_leaf(group)!r}; the node's log has the details"
        self._set("failed" if self._error else "stopped" if self._stopped else "done")

    async def _walk(self) -> None:
        platform = resolve_platform(network=self._node.config.text("payment.network"))
        self._allocation = allocation = await self._allocate(platform)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._accept_bills)
            try:
                await self._compute(platform, allocation)
            finally:
                with self._settling:
                    await self._settle(platform)
                    await self._release(allocation)
            nursery.cancel_scope.cancel()

    async def _allocate(self, platform: Platform) -> str:
        payment = self._node.payment.service
        budget = parse_amount(self._spec.budget)
        await payment.init_account(self._me, platform, send=True, receive=False)
        balance = await payment.balance(self._me, platform)
        if balance.token_wei < budget and platform.network == "devnet":
            self._set("starting", "asking the faucet for test GLM")
            await payment.fund(self._me, platform)
        allocation = await payment.create_allocation(
            self._me,
            platform=platform,
            total_wei=budget,
            timeout_ns=self._node.clock.utc_ns() + 24 * 3600 * SECOND,
        )
        return allocation.allocation_id

    async def _compute(self, platform: Platform, allocation: str) -> None:
        self._set("starting", "publishing the program")
        program = Path(self._spec.program)
        url = await self._node.files.publish(program)
        digest = await trio.to_thread.run_sync(_sha3, program)
        properties, constraints = await self._demand(allocation, f"hash:sha3:{digest}:{url}")
        market = self._node.market.service
        demand = await market.subscribe_demand(self._me, properties, constraints)
        self._set("finding", "looking for providers")
        try:
            with self._stop:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._collect, demand, properties, constraints, platform, nursery)
                    nursery.start_soon(self._hire, demand, platform, nursery)
                    await self._until_over()
                    nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True), contextlib.suppress(MarketError):
                await market.unsubscribe_demand(self._me, demand)
            self._node.files.close(url)
        self._error = self._board.first_failure or self._error

    async def _demand(self, allocation: str, package: str) -> tuple[dict[str, Any], str]:
        decorations = await self._node.payment.service.decorations(self._me, [allocation])
        expires = self._node.clock.utc_ns() // 1_000_000 + AGREEMENT_LIFE * 1000
        properties: dict[str, Any] = {
            "golem.node.id.name": self._node.name,
            "golem.node.debug.subnet": self._spec.subnet,
            "golem.srv.comp.expiration": expires,
            "golem.srv.comp.task_package": package,
            "golem.srv.caps.multi-activity": True,
            "golem.com.payment.debit-notes.accept-timeout?": 120,
            **dict(decorations.properties),
        }
        terms = [
            f"(golem.node.debug.subnet={self._spec.subnet})",
            f"(golem.runtime.name={RUNTIME})",
            f"(golem.inf.mem.gib>={self._spec.mem_gib})",
            f"(golem.inf.storage.gib>={self._spec.storage_gib})",
            "(golem.com.pricing.model=linear)",
            *decorations.constraints,
        ]
        return properties, "(&" + "".join(terms) + ")"

    async def _until_over(self) -> None:
        while True:
            ticket = self._changed.ticket()
            if self._board.over:
                return
            now = trio.current_time()
            if not self._seen and now - self._started > NO_PROVIDER_AFTER:
                raise JobError(self._nobody())
            if self._busy:
                self._idle_since = now
            elif self._seen and now - self._idle_since > IDLE_AFTER:
                raise JobError(
                    f"no provider took the work for {IDLE_AFTER:.0f} s; last: {self._last_refusal}"
                )
            with trio.move_on_after(1.0):
                await ticket.wait()

    def _nobody(self) -> str:
        hint = " Start some with: golem-p2p devnet up" if self._node.overlay.network == "devnet" else ""
        peers = len(self._node.overlay.peers())
        return f"no provider has an offer that fits ({peers} peers connected).{hint}"

    # --- negotiating ------------------------------------------------------------------------------------

    async def _collect(
        self,
        demand: str,
        properties: dict[str, Any],
        constraints: str,
        platform: Platform,
        nursery: trio.Nursery,
    ) -> None:
        """Counter every matching offer, and gather what the providers answer."""
        market = self._node.market.service
        chosen = {**properties, "golem.com.payment.chosen-platform": str(platform)}
        while True:
            batch = await market.collect(self._me, "demand", demand, timeout=5.0, limit=20)
            batch.confirm()
            for event in batch.events:
                match event:
                    case ProposalArrived(proposal=proposal):
                        await self._take(demand, proposal, chosen, constraints, nursery)
                    case ProposalRejected():
                        self._last_refusal = f"a provider declined: {event.reason}"
                        provider = self._asked.pop(event.proposal_id, "")
                        self._log.info("a provider declined", provider=provider, reason=event.reason)
                        if provider and not is_final(event.reason):
                            nursery.start_soon(self._ask_again, demand, event.proposal_id, provider)
            self._changed.notify()

    async def _take(
        self,
        demand: str,
        proposal: Proposal,
        chosen: dict[str, Any],
        constraints: str,
        nursery: trio.Nursery,
    ) -> None:
        provider = proposal.issuer_id
        self._seen.add(provider)
        if proposal.state != "Initial":
            self._asked.pop(proposal.prev_proposal_id or "", None)
            self._candidates[provider] = proposal
        elif price_of_hour(msgspec.json.decode(proposal.properties)) is not None:
            try:
                asked = await self._node.market.service.counter(
                    self._me, demand, proposal.proposal_id, chosen, constraints
                )
            except MarketError as error:
                self._log.info("offer not countered", provider=provider, reason=str(error))
                nursery.start_soon(self._ask_again, demand, proposal.proposal_id, provider)
            else:
                self._asked[asked] = provider

    async def _ask_again(self, demand: str, proposal_id: str, provider: str) -> None:
        """Begin anew with a provider, after a pause."""
        self._set_back(provider)
        await trio.sleep_until(self._avoid[provider])
        with contextlib.suppress(MarketError):
            await self._node.market.service.propose_again(self._me, demand, proposal_id)

    def _set_back(self, provider: str) -> None:
        pause = PAUSES[min(self._setbacks[provider], len(PAUSES) - 1)]
        self._setbacks[provider] += 1
        self._avoid[provider] = trio.current_time() + pause

    async def _hire(self, demand: str, platform: Platform, nursery: trio.Nursery) -> None:
        """Keep as many providers at work as are wanted and useful, the cheapest first."""
        while True:
            ticket = self._changed.ticket()
            while self._board.waiting and len(self._busy) < self._spec.providers:
                candidate = self._next_candidate()
                if candidate is None:
                    break
                self._busy.add(candidate.issuer_id)
                nursery.start_soon(self._engage, demand, candidate, platform, nursery)
            with trio.move_on_after(1.0):
                await ticket.wait()

    def _next_candidate(self) -> Proposal | None:
        now = trio.current_time()
        free = [
            proposal
            for provider, proposal in self._candidates.items()
            if provider not in self._busy and self._avoid.get(provider, -math.inf) <= now
        ]
        if not free:
            return None

        def cost(proposal: Proposal) -> tuple[float, str]:
            price = price_of_hour(msgspec.json.decode(proposal.properties))
            return (math.inf if price is None else price, proposal.issuer_id)

        best = min(free, key=cost)
        del self._candidates[best.issuer_id]
        return best

    async def _engage(
        self, demand: str, proposal: Proposal, platform: Platform, nursery: trio.Nursery
    ) -> None:
        """Make an agreement with one provider and let it work."""
        provider = proposal.issuer_id
        market = self._node.market.service
        offer = msgspec.json.decode(proposal.properties)
        try:
            valid_to = self._node.clock.utc_ns() + 60 * SECOND
            agreement_id = await market.create_agreement(self._me, proposal.proposal_id, valid_to)
            await market.confirm_agreement(self._me, agreement_id, None)
            try:
                await market.wait_for_approval(self._me, agreement_id, APPROVAL_TIMEOUT)
            except BaseException:
                with trio.CancelScope(shield=True), contextlib.suppress(MarketError):
                    await market.cancel_agreement(self._me, agreement_id, {"message": "not approved in time"})
                raise
            hired = Hired(agreement_id, provider, str(offer.get("golem.node.id.name", "")), offer)
            # On disk before the first activity: what it may cost must be known even if this node dies now.
            most = most_owed(offer, 0.0, 1)
            await self._bills.expect(agreement_id, self._allocation, most, second_wei=owed_each_second(offer))
            self._hired[agreement_id] = hired
            await self._note_balance(hired, platform, before=True)
            self._set("working", f"{hired.name or provider} agreed")
            await work(self._node, self._spec, hired, self._board, self._changed)
            if hired.state == "lost":  # the end of its agreement brings its offer again
                self._set_back(provider)
                self._last_refusal = f"lost {hired.name or provider}: {hired.error}"
                self._log.warning("a provider failed", provider=provider, reason=hired.error)
                self._set(self._phase, self._last_refusal)
        except (MarketError, PaymentError) as error:
            self._last_refusal = str(error)
            self._log.info("no agreement", provider=provider, reason=str(error))
            nursery.start_soon(self._ask_again, demand, proposal.proposal_id, provider)
        finally:
            self._busy.discard(provider)
            self._changed.notify()

    async def _note_balance(self, hired: Hired, platform: Platform, *, before: bool) -> None:
        address = hired.offer.get(f"golem.com.payment.platform.{platform}.address", hired.provider)
        with contextlib.suppress(PaymentError, DriverError):
            balance = await self._node.payment.service.balance(str(address), platform)
            if before:
                hired.balance_before = balance.token_wei
            else:
                hired.balance_after = balance.token_wei

    # --- paying -----------------------------------------------------------------------------------------

    async def _accept_bills(self) -> None:
        """Accept what our agreements are billed, as far as it can be right; until cancelled."""
        payment = self._node.payment.service
        while True:
            for hired in list(self._hired.values()):
                try:
                    await self._accept_for(hired)
                except PaymentError as error:
                    hired.error = str(error)
                    hired.refusals += 1
                    self._log.warning("bill not accepted", agreement=hired.agreement_id, reason=str(error))
            await payment.document_events(
                self._me, "invoice", after_ns=self._node.clock.utc_ns(), timeout=2.0
            )

    async def _accept_for(self, hired: Hired) -> None:
        most = most_owed(hired.offer, hired.seconds(trio.current_time()), hired.activities)
        second = owed_each_second(hired.offer) if hired.alive else 0
        bill = await self._bills.expect(hired.agreement_id, self._allocation, most, second_wei=second)
        hired.invoiced = hired.invoiced or await self._bills.accept(bill)
        hired.error = self._bills.refused.get(hired.agreement_id, hired.error)
        payment = self._node.payment.service
        for row in await payment.agreement_ledger(self._me, hired.agreement_id):
            if (row.totals.accepted, row.totals.paid) != (hired.accepted_wei, hired.paid_wei):
                hired.accepted_wei, hired.paid_wei = row.totals.accepted, row.totals.paid
                self._changed.notify()

    async def _settle(self, platform: Platform) -> None:
        """Wait, bounded, for invoices and for their payment."""
        worked = [hired for hired in self._hired.values() if hired.activities]
        if not worked:
            return
        self._set("paying", "waiting for invoices")
        with trio.move_on_after(INVOICE_TIMEOUT):
            while not all(hired.invoiced or hired.gone or hired.refusals >= LAST_REFUSAL for hired in worked):
                await self._changed_within(0.5)
        for hired in worked:
            if hired.state == "finished" and hired.error and not hired.invoiced:
                self._error = self._error or f"{hired.name or hired.provider} is not paid: {hired.error}"
        with contextlib.suppress(PaymentError):
            await self._node.payment.service.process_now(self._me, platform)
        self._set("paying", "paying on chain")
        with trio.move_on_after(SETTLE_TIMEOUT):
            while not all(hired.paid_wei >= hired.accepted_wei for hired in worked):
                await self._changed_within(0.5)
        paid = await self._node.payment.service.payments(self._me)
        for hired in worked:
            hired.transactions = tuple(
                sorted(
                    {p.tx_hash for p in paid if any(s.agreement_id == hired.agreement_id for s in p.shares)}
                )
            )
            await self._note_balance(hired, platform, before=False)

    async def _changed_within(self, seconds: float) -> None:
        with trio.move_on_after(seconds):
            await self._changed.ticket().wait()

    async def _release(self, allocation: str) -> None:
        """Give back what the job did not spend; for bills that are still open, what they can come to is kept."""
        payment = self._node.payment.service
        still_owed = 0
        for hired in self._hired.values():
            if hired.invoiced or not hired.activities:
                await self._bills.forget(hired.agreement_id)
            else:
                still_owed += most_owed(hired.offer, hired.seconds(trio.current_time()), hired.activities)
        with contextlib.suppress(PaymentError):
            if still_owed:
                spent = (await payment.allocation(self._me, allocation)).spent_wei
                await payment.amend_allocation(self._me, allocation, total_wei=spent + still_owed)
            else:
                await payment.release_allocation(self._me, allocation)

    def _set(self, phase: str, note: str = "") -> None:
        if phase != self._phase:
            self._log.info("job", phase=phase, at=format_time(self._node.clock.utc_ns()))
        self._phase, self._note = phase, note or self._note
        self._changed.notify()


def _first_leaf(group: BaseExceptionGroup[BaseException]) -> BaseException:
    first = group.exceptions[0]
    return _first_leaf(first) if isinstance(first, BaseExceptionGroup) else first


def _sha3(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha3_256").hexdigest()
