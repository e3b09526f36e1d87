"""The exchange of agreements: what our own side does with them, and what time does.

Nothing that our own side decides waits for the other node, except `approve`, which waits for the requestor's
commitment because its callers count on that. Each step is committed together with the message that promises it
(`agreement_records`), which the outbox then delivers until it is answered (`agreement_peers`).

Called by `service.Market` and by its timer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from p2p import codec
from protocols.ground.times import SECOND
from protocols.ground.wakeup import poll
from protocols.market import events, ids, store
from protocols.market.core import agreements as core
from protocols.market.core.agreements import Agreement, Step
from protocols.market.core.proposals import Record, accept, check_acceptable
from protocols.market.core.signatures import approval_digest, terms_digest
from protocols.market.errors import BadRequest, Gone, PeerSilent, TimedOut, WrongState
from protocols.market.messages import (
    MAX_TIME_NS,
    AgreementApproved,
    AgreementReceived,
    AgreementState,
    AgreementTerms,
    Role,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from p2p.identity import NodeId
    from p2p.storage import Connection
    from protocols.market.agreement_records import AgreementRecords
    from protocols.market.core.proposals import Negotiations
    from protocols.market.settings import Settings

CLEANING_NS = 4 * 3600 * SECOND
_PAGE = 100
_S = AgreementState


class AgreementExchange:
    """Our agents' part in agreements."""

    def __init__(self, records: AgreementRecords, settings: Settings, book: Negotiations) -> None:
        self._ctx = records.ctx
        self._records = records
        self._settings = settings
        self._book = book
        self._due_ns: int | None = 0
        self._clean_ns = 0

    # --- the requestor's agent ----------------------------------------------------------------------------------

    async def create(self, owner: NodeId, proposal_id: str, valid_to_ns: int) -> str:
        """Make an agreement of the provider's last proposal, telling nobody yet; return its id.

        Raises:
            BadRequest: no such proposal, or not one that can be agreed to.
            Conflict: there is an agreement of it already.
        """
        record = self._promotable(owner, proposal_id)
        demand = check_acceptable(record)
        negotiation = record.negotiation
        terms = AgreementTerms(
            network=self._ctx.overlay.network,
            requestor_id=negotiation.owner,
            provider_id=negotiation.peer,
            demand_id=negotiation.demand_id,
            offer_id=negotiation.offer_id,
            proposal_id=record.hash,
            demand_properties=demand.properties.text,
            demand_constraints=demand.constraints,
            offer_properties=record.properties.text,
            offer_constraints=record.constraints,
            created_ns=self._ctx.clock.utc_ns(),
            valid_to_ns=max(0, min(valid_to_ns, MAX_TIME_NS)),
        )
        agreement = Agreement(ids.agreement_id(terms), Role.REQUESTOR, terms, _S.PROPOSAL)
        accept(record)  # before waiting, so that a second call finds it taken
        try:
            await self._ctx.database.write(lambda c: store.insert(c, agreement))
        except BaseException:
            record.state = "Draft"
            raise
        self._records.replan()
        return agreement.agreement_id

    def _promotable(self, owner: NodeId, proposal_id: str) -> Record:
        role, proposal = ids.split_proposal_id(proposal_id)
        record = self._book.find(role, proposal)
        if record is None or record.negotiation.owner != owner or role is not Role.REQUESTOR:
            raise BadRequest(
                f"Can't create Agreement for Proposal [{proposal_id}]. Proposal [{proposal_id}] not found."
            )
        return record

    async def confirm(self, owner: NodeId, agreement_id: str, app_session_id: str | None) -> None:
        """Sign the agreement and send it to the provider; returns when that is promised, not when it is done.

        Raises:
            NotFound, WrongState.
        """
        now = self._ctx.clock.utc_ns()
        signer = self._records.signer_of(owner)

        def confirm(c: Connection) -> Agreement:
            mine = self._records.load(c, owner, agreement_id, Role.REQUESTOR, now)
            if mine.state is not _S.PROPOSAL:
                raise WrongState(mine.state, _S.PENDING)
            mine = core.advance(
                mine,
                Step.CONFIRM,
                proposed_signature=signer.sign(terms_digest(mine.terms)),
                confirmed_ns=now,
                app_session_id=app_session_id,
            )
            assert mine.proposed_signature is not None
            message = AgreementReceived(codec.encode(mine.terms), mine.proposed_signature)
            expires_ns = now + int(self._settings.confirm_timeout * SECOND)
            self._records.promise(c, mine, message, expires_ns)
            return self._records.keep(c, [mine], now)[-1]

        await self._records.write(confirm, now)

    async def wait(self, owner: NodeId, agreement_id: str, timeout: float) -> None:
        """Return when the provider has approved.

        Raises:
            TimedOut: not in time. Gone: it was rejected or cancelled, or has expired.
            BadRequest: it was not confirmed, or is terminated. NotFound.
        """
        mine = await self._until(
            owner, agreement_id, Role.REQUESTOR, lambda a: a.state is not _S.PENDING, timeout
        )
        shown = f"Agreement [R-{agreement_id}]"
        match mine.state:
            case _S.APPROVED:
                return
            case _S.PENDING:
                raise TimedOut(f"Timeout while waiting for {shown} approval.")
            case _S.PROPOSAL:
                raise BadRequest(f"{shown} should be confirmed, before waiting for approval.")
            case _S.TERMINATED:
                raise BadRequest(f"{shown} terminated.")
            case _S.EXPIRED:
                raise Gone(f"{shown} expired.")
            case _:
                raise Gone(mine.state.value)

    async def cancel(self, owner: NodeId, agreement_id: str, reason: str | None) -> None:
        """Take the agreement back, as long as the provider's approval has not been taken. Raises NotFound, Gone."""
        await self._end(owner, agreement_id, Role.REQUESTOR, Step.CANCEL, reason)

    # --- the provider's agent -----------------------------------------------------------------------------------

    async def approve(
        self, owner: NodeId, agreement_id: str, app_session_id: str | None, timeout: float
    ) -> None:
        """Sign the agreement and wait for the requestor's commitment. May be called again after a timeout.

        Raises:
            PeerSilent: not in time; the approval stands, and the commitment may still come.
            Gone: it was cancelled meanwhile, or has expired. NotFound, WrongState.
        """
        now = self._ctx.clock.utc_ns()
        signer = self._records.signer_of(owner)

        def approve(c: Connection) -> Agreement:
            mine = self._records.load(c, owner, agreement_id, Role.PROVIDER, now)
            if mine.state is _S.APPROVING:
                return mine
            assert mine.proposed_signature is not None
            digest = approval_digest(agreement_id, mine.proposed_signature, now)
            signature = signer.sign(digest)
            mine = core.advance(
                mine,
                Step.APPROVE,
                approved_ns=now,
                approved_signature=signature,
                app_session_id=app_session_id,
            )
            expires_ns = (core.due_ns(mine) or now) + SECOND
            self._records.promise(c, mine, AgreementApproved(agreement_id, now, signature), expires_ns)
            return self._records.keep(c, [mine], now)[-1]

        await self._records.write(approve, now)
        mine = await self._until(
            owner, agreement_id, Role.PROVIDER, lambda a: a.state is not _S.APPROVING, timeout
        )
        match mine.state:
            case _S.APPROVED | _S.TERMINATED:
                return
            case _S.APPROVING:
                raise PeerSilent(
                    f"Agreement [P-{agreement_id}]: no answer of the requestor to the approval within {timeout:g} s."
                )
            case _S.EXPIRED:
                raise Gone(f"Agreement [P-{agreement_id}] expired.")
            case _:
                raise Gone(mine.state.value)

    async def reject(self, owner: NodeId, agreement_id: str, reason: str | None) -> None:
        """Refuse an agreement that was not approved. Raises NotFound, Gone."""
        await self._end(owner, agreement_id, Role.PROVIDER, Step.REJECT, reason)

    # --- either side's agent --------------------------------------------------------------------------------------

    async def terminate(self, owner: NodeId, agreement_id: str, reason: str | None) -> None:
        """End an approved agreement at once; the other node is told as soon as it is reached.

        Raises:
            NotFound, WrongState; Conflict: it was not even confirmed.
        """
        await self._end(owner, agreement_id, None, Step.TERMINATE, reason)

    async def _end(
        self, owner: NodeId, agreement_id: str, role: Role | None, step: Step, reason: str | None
    ) -> None:
        now = self._ctx.clock.utc_ns()
        signer = self._records.signer_of(owner)

        def end(c: Connection) -> Agreement:
            mine = self._records.load(c, owner, agreement_id, role, now)
            word = core.signed_end(mine, step, reason, now, signer)
            told = mine.state is not _S.PROPOSAL
            mine = core.advance(mine, step, end=word)
            if told:
                self._records.promise_end(c, mine, now)
            return self._records.keep(c, [mine], now)[-1]

        await self._records.write(end, now)

    async def get(self, owner: NodeId, agreement_id: str) -> Agreement:
        """Return an agreement of an identity. Raises NotFound."""
        now = self._ctx.clock.utc_ns()
        return await self._ctx.database.read(lambda c: self._records.load(c, owner, agreement_id, None, now))

    async def find(self, agreement_id: str, role: Role) -> Agreement | None:
        """Return an agreement by its id and our side, whichever identity's it is."""
        now = self._ctx.clock.utc_ns()
        mine = await self._ctx.database.read(lambda c: store.load(c, agreement_id, role))
        return None if mine is None else core.expired(mine, now) or mine

    async def select(self, wanted: store.Filter) -> list[Agreement]:
        """Return agreements, oldest first."""
        await self.tick(self._ctx.clock.utc_ns())
        return await self._ctx.database.read(lambda c: store.select(c, wanted))

    async def termination(self, owner: NodeId, agreement_id: str) -> events.AgreementEvent:
        """Return the event of the termination. Raises NotFound; BadRequest: not terminated."""
        mine = await self.get(owner, agreement_id)
        event = await self._ctx.database.read(lambda c: store.termination(c, agreement_id, mine.role))
        if event is None:
            raise BadRequest(f"Agreement [{mine.role.value[0]}-{agreement_id}] not terminated yet.")
        return event

    async def events(
        self, owner: NodeId, after_ns: int, app_session_id: str | None, limit: int, timeout: float
    ) -> Sequence[events.AgreementEvent]:
        """Return what happened after a time, waiting for the first of it."""

        async def read() -> list[events.AgreementEvent]:
            return await self._ctx.database.read(
                lambda c: store.events(c, owner, after_ns, app_session_id, limit)
            )

        return await poll(self._records.news, read, timeout=timeout)

    async def _until(
        self,
        owner: NodeId,
        agreement_id: str,
        role: Role,
        done: Callable[[Agreement], bool],
        timeout: float,
    ) -> Agreement:
        signal = self._records.changes_of(agreement_id)
        deadline = trio.current_time() + timeout
        while True:
            ticket, now = signal.ticket(), self._ctx.clock.utc_ns()
            mine = await self._ctx.database.read(
                lambda c, now=now: self._records.load(c, owner, agreement_id, role, now)  # type: ignore[misc]
            )
            if done(mine) or trio.current_time() >= deadline:
                return mine
            with trio.move_on_at(deadline):
                await ticket.wait()

    # --- time -----------------------------------------------------------------------------------------------------

    def replan(self) -> None:
        """Look anew at the next `tick`: the time for something may have come nearer."""
        self._due_ns = 0

    async def tick(self, now_ns: int) -> int | None:
        """Expire what is due, give up what could not be delivered, clean; return when to look again."""
        if self._due_ns is not None and self._due_ns <= now_ns:
            self._due_ns = None  # whoever replans meanwhile sets it again
            await self._expire(now_ns)
            due = await self._next_due(now_ns)
            self._due_ns = due if self._due_ns is None else self._due_ns
        return self._due_ns

    async def _expire(self, now_ns: int) -> None:
        patience = int(self._settings.confirm_timeout * SECOND)
        for mine in await self._ctx.database.read(lambda c: store.unreceived(c, now_ns - patience)):
            await self._records.give_up(mine.agreement_id, "the provider's node could not be reached")
        grace = {_S.PROPOSAL: 0, _S.PENDING: 0, _S.APPROVING: core.APPROVAL_GRACE_NS}
        for state, delay in grace.items():
            while True:
                steps = await self._ctx.database.write(
                    lambda c, s=state, d=delay: self._expire_page(c, s, now_ns - d, now_ns)  # type: ignore[misc]
                )
                self._announce_expired(steps, now_ns)
                if len(steps) < _PAGE:
                    break
        if self._clean_ns <= now_ns:
            self._clean_ns = now_ns + CLEANING_NS
            before = now_ns - int(self._settings.keep_days * 24 * 3600 * SECOND)
            await self._ctx.database.write(lambda c: store.forget(c, before))

    def _expire_page(
        self, c: Connection, state: AgreementState, before_ns: int, now_ns: int
    ) -> Sequence[Agreement]:
        due = store.ending_before(c, state, before_ns, _PAGE)
        return self._records.keep(c, [core.advance(mine, Step.EXPIRE) for mine in due], now_ns)

    def _announce_expired(self, steps: Sequence[Agreement], now_ns: int) -> None:
        if steps:
            self._records.announce(steps, now_ns)

    async def _next_due(self, now_ns: int) -> int:
        patience = int(self._settings.confirm_timeout * SECOND)

        def next_due(c: Connection) -> int:
            dues = [self._clean_ns]
            for states, delay in (((_S.PROPOSAL, _S.PENDING), 0), ((_S.APPROVING,), core.APPROVAL_GRACE_NS)):
                ends = store.next_expiry(c, states)
                dues += [] if ends is None else [ends + delay + 1]
            confirmed = store.next_unreceived(c)
            dues += [] if confirmed is None else [confirmed + patience]
            return min(dues)

        return max(now_ns + 1, await self._ctx.database.read(next_due))
