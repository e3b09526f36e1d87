"""The exchange of agreements: made here, told to the other node, learnt from it, timed, and followed.

Each step is one transaction: state, event, and the message that promises it, which the outbox then delivers
until it is answered. Nothing that our own side decides waits for the other node, except `approve`, which waits
for the requestor's commitment because its callers count on that. What the peer says, in whatever message or
answer, becomes an `AgreementStatus` and goes through `core.agreements.learn`.

Called by `service.Market`, by peers through the handler, and by the handler's timer.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import msgspec
import trio

from p2p import codec
from p2p.bus import BusError, RemoteError, ask, net_address
from protocols.ground.outbox import Item, Outbox
from protocols.ground.times import SECOND
from protocols.ground.wakeup import Signal, poll
from protocols.market import events, ids, store
from protocols.market.core import agreements as core
from protocols.market.core.agreements import Agreement, Step
from protocols.market.core.catalogue import SKEW_NS
from protocols.market.core.proposals import Record, accept, check_acceptable
from protocols.market.core.signatures import approval_digest, check_signature, side_of, terms_digest
from protocols.market.errors import (
    BadRequest,
    Forbidden,
    Gone,
    LimitReached,
    MarketError,
    NotFound,
    PeerSilent,
    TimedOut,
    WrongState,
)
from protocols.market.messages import (
    AGREEMENT_TOPIC,
    MAX_TIME_NS,
    PROTOCOL,
    AgreementApproved,
    AgreementCancelled,
    AgreementCommitted,
    AgreementEnd,
    AgreementReceived,
    AgreementRejected,
    AgreementState,
    AgreementStatus,
    AgreementTerminated,
    AgreementTerms,
    Role,
    SyncAgreement,
)
from protocols.market.reasons import read_reason, reason_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from p2p.bus import Caller
    from p2p.identity import NodeId, Signer
    from p2p.protocol import NodeContext
    from p2p.storage import Connection
    from protocols.market.core.proposals import Negotiations
    from protocols.market.settings import Settings
    from protocols.market.subscriptions import Subscriptions

NOTICE_KEPT_NS = 30 * 24 * 3600 * SECOND
"""How long it is tried to tell the other node of an end."""
MAX_SYNCED = 500
"""Agreements compared when a peer comes back; the newest ones."""
CLEANING_NS = 4 * 3600 * SECOND
_PAGE = 100
_S = AgreementState


@dataclasses.dataclass(frozen=True)
class Hooks:
    """Whom the exchange tells."""

    ended: Callable[[Agreement], None]
    """A requestor's agreement was terminated: the pair may be offered again."""
    replanned: Callable[[], None]
    """The time for the next `tick` may have come nearer."""


class AgreementExchange:
    """Agreements of our identities, on either side."""

    def __init__(
        self,
        ctx: NodeContext,
        settings: Settings,
        subscriptions: Subscriptions,
        book: Negotiations,
        signer_of: Callable[[str], Signer],
        hooks: Hooks,
    ) -> None:
        self._ctx = ctx
        self._settings = settings
        self._subscriptions = subscriptions
        self._book = book
        self._signer_of = signer_of
        self._hooks = hooks
        self._outbox = Outbox(PROTOCOL, ctx, delivered=self._delivered, refused=self._refused)
        self._changes: WeakValueDictionary[str, Signal] = WeakValueDictionary()
        self._news = Signal()
        self._receiving = trio.Lock()
        self._due_ns: int | None = 0
        self._clean_ns = 0

    async def start(self) -> None:
        """Make the tables."""
        await self._ctx.database.migrate(PROTOCOL, store.migrations())
        await self._outbox.migrate()

    async def run(self) -> None:
        """Deliver messages until cancelled."""
        await self._outbox.run()

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
        self._replan()
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
        signer = self._signer_of(owner)

        def confirm(c: Connection) -> Agreement:
            mine = self._load(c, owner, agreement_id, Role.REQUESTOR, now)
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
            self._promise(c, mine, message, expires_ns)
            return self._keep(c, [mine], now)[-1]

        await self._write(confirm, now)

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
        signer = self._signer_of(owner)

        def approve(c: Connection) -> Agreement:
            mine = self._load(c, owner, agreement_id, Role.PROVIDER, now)
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
            self._promise(c, mine, AgreementApproved(agreement_id, now, signature), expires_ns)
            return self._keep(c, [mine], now)[-1]

        await self._write(approve, now)
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
        signer = self._signer_of(owner)

        def end(c: Connection) -> Agreement:
            mine = self._load(c, owner, agreement_id, role, now)
            word = core.signed_end(mine, step, reason, now, signer)
            told = mine.state is not _S.PROPOSAL
            mine = core.advance(mine, step, end=word)
            if told:
                self._promise_end(c, mine, now)
            return self._keep(c, [mine], now)[-1]

        await self._write(end, now)

    async def get(self, owner: NodeId, agreement_id: str) -> Agreement:
        """Return an agreement of an identity. Raises NotFound."""
        now = self._ctx.clock.utc_ns()
        return await self._ctx.database.read(lambda c: self._load(c, owner, agreement_id, None, now))

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

        return await poll(self._news, read, timeout=timeout)

    async def _until(
        self,
        owner: NodeId,
        agreement_id: str,
        role: Role,
        done: Callable[[Agreement], bool],
        timeout: float,
    ) -> Agreement:
        signal = self._changes.setdefault(agreement_id, Signal())
        deadline = trio.current_time() + timeout
        while True:
            ticket, now = signal.ticket(), self._ctx.clock.utc_ns()
            mine = await self._ctx.database.read(
                lambda c, now=now: self._load(c, owner, agreement_id, role, now)  # type: ignore[misc]
            )
            if done(mine) or trio.current_time() >= deadline:
                return mine
            with trio.move_on_at(deadline):
                await ticket.wait()

    def _load(
        self, c: Connection, owner: NodeId, agreement_id: str, role: Role | None, now_ns: int
    ) -> Agreement:
        """Return an identity's agreement as it stands now. Raises NotFound."""
        for side in (role,) if role else Role:
            mine = store.load(c, agreement_id, side)
            if mine is not None and mine.owner == owner:
                return core.expired(mine, now_ns) or mine
        shown = f"{role.value[0]}-{agreement_id}" if role else agreement_id
        raise NotFound(f"Agreement [{shown}] not found.")

    # --- keeping, promising, telling ------------------------------------------------------------------------------

    async def _write(self, f: Callable[[Connection], Agreement], now_ns: int) -> Agreement:
        """Commit one step of ours to disk, then let everyone know."""
        mine = await self._ctx.database.write(f, durable=True)
        self._announce([mine], now_ns)
        return mine

    def _keep(self, c: Connection, steps: Sequence[Agreement], now_ns: int) -> Sequence[Agreement]:
        for step in steps:
            store.update(c, step)
            store.log_event(c, step, now_ns)
        return steps

    def _promise(self, c: Connection, mine: Agreement, message: msgspec.Struct, expires_ns: int) -> None:
        # Each message is sent once in an agreement's life, and they go out in this order.
        key = f"{mine.role.value[0]}/{mine.agreement_id}/{type(message).__name__}"
        self._outbox.put(c, mine.peer, PROTOCOL, message, key=key, expires_ns=expires_ns)

    def _promise_end(self, c: Connection, mine: Agreement, now_ns: int) -> None:
        end = mine.end
        assert end is not None
        message_type = {
            _S.CANCELLED: AgreementCancelled,
            _S.REJECTED: AgreementRejected,
            _S.TERMINATED: AgreementTerminated,
        }[mine.state]
        message = message_type(mine.agreement_id, end.reason, end.at_ns, end.signature)
        self._promise(c, mine, message, now_ns + NOTICE_KEPT_NS)

    def _announce(self, steps: Sequence[Agreement], now_ns: int) -> None:
        for mine in steps:
            change = events.AgreementChanged(
                agreement_id=mine.agreement_id,
                role=mine.role,
                requestor_id=mine.terms.requestor_id,
                provider_id=mine.terms.provider_id,
                state=mine.state,
                app_session_id=mine.app_session_id,
                at_ns=now_ns,
            )
            self._ctx.bus.publish(AGREEMENT_TOPIC, codec.encode(change))
            signal = self._changes.get(mine.agreement_id)
            if signal is not None:
                signal.notify()
            if mine.state is _S.TERMINATED and mine.role is Role.REQUESTOR:
                self._hooks.ended(mine)
        self._news.notify()
        self._outbox.wake()
        self._replan()

    # --- learning from the other node -----------------------------------------------------------------------------

    async def _learn(
        self, agreement_id: str, role: Role, peer: str, theirs: AgreementStatus, *, received: bool = False
    ) -> AgreementStatus:
        """Take the other side's word; return ours. Raises NotFound, Forbidden, BadRequest."""
        now = self._ctx.clock.utc_ns()
        if theirs.ended is not None:
            read_reason(theirs.ended.reason)

        def decide(c: Connection) -> tuple[Agreement, list[Agreement]]:
            mine = store.load(c, agreement_id, role)
            if mine is None or mine.peer != peer:
                raise NotFound(f"Agreement [{agreement_id[:128]}] not found.")
            return mine, core.learn(mine, theirs, now, self._signer_of(mine.owner))

        def learn(c: Connection) -> tuple[Agreement, Sequence[Agreement]]:
            mine, steps = decide(c)
            self._keep(c, steps, now)
            for step in steps:
                self._promise_what_follows(c, step, now)
            last = steps[-1] if steps else mine
            if received and not last.received:
                last = msgspec.structs.replace(last, received=True)
                store.update(c, last)
            return last, steps

        last, steps = await self._ctx.database.read(decide)
        if steps or (received and not last.received):  # what is no news costs no write
            last, kept = await self._ctx.database.write(learn, durable=True)
            self._announce(kept, now)
        return last.status()

    def _promise_what_follows(self, c: Connection, mine: Agreement, now_ns: int) -> None:
        if mine.role is not Role.REQUESTOR:
            return
        if mine.state is _S.APPROVED and mine.committed_signature is not None:
            message = AgreementCommitted(mine.agreement_id, mine.committed_signature)
            self._promise(c, mine, message, now_ns + NOTICE_KEPT_NS)
        elif mine.state is _S.TERMINATED and mine.end is not None and mine.end.by is Role.REQUESTOR:
            self._promise_end(c, mine, now_ns)

    async def received(self, caller: Caller, message: AgreementReceived) -> AgreementStatus:
        """Take an agreement that a requestor proposes to us.

        What a requestor may send but we cannot accept is answered as Rejected, signed; what nobody may send is
        an error.

        Raises:
            BadRequest, Forbidden: malformed or forged. LimitReached: our agent does not read its events.
        """
        now = self._ctx.clock.utc_ns()
        try:
            terms = codec.decode(message.terms, AgreementTerms)
        except codec.CodecError as error:
            raise BadRequest(f"the terms cannot be read: {error}") from error
        if terms.requestor_id != caller.node_id or terms.requestor_id == terms.provider_id:
            raise Forbidden(f"{caller.node_id} proposes an agreement in the name of {terms.requestor_id}")
        if terms.network != self._ctx.overlay.network:
            raise BadRequest(f"an agreement for the network {terms.network!r}")
        signer = self._signer_of(terms.provider_id)
        requestor = side_of(terms, Role.REQUESTOR)
        check_signature(terms_digest(terms), message.signature, requestor, "proposed agreement")
        mine = Agreement(
            agreement_id=ids.agreement_id(terms),
            role=Role.PROVIDER,
            terms=terms,
            state=_S.PENDING,
            proposed_signature=message.signature,
        )
        async with self._receiving:  # a repetition waits for the first, and finds it kept
            return await self._take(mine, signer, now)

    async def _take(self, mine: Agreement, signer: Signer, now: int) -> AgreementStatus:
        terms = mine.terms
        known = await self._ctx.database.read(lambda c: store.load(c, mine.agreement_id, Role.PROVIDER))
        if known is not None:
            return known.status()
        record = self._book.find(Role.PROVIDER, terms.proposal_id)
        problem = self._unacceptable(record, terms, now)
        if problem is not None:
            reason = reason_of(problem)
            return AgreementStatus(_S.REJECTED, ended=core.signed_end(mine, Step.REJECT, reason, now, signer))
        assert record is not None
        offer = self._subscriptions.find("offer", terms.offer_id, now)
        assert offer is not None
        if not offer.queue.has_room:
            raise LimitReached("the provider's agent has too many events to read; try again later")
        accept(record)
        try:
            await self._ctx.database.write(lambda c: store.insert(c, mine), durable=True)
        except BaseException:
            record.state = "Draft"
            raise
        self._announce([mine], now)
        offer.queue.put(events.AgreementArrived(now, mine.view()))
        offer.signal.notify()
        return mine.status()

    def _unacceptable(self, record: Record | None, terms: AgreementTerms, now_ns: int) -> str | None:
        """Return why the provider's node cannot take the agreement, or None."""
        if record is None or record.negotiation.peer != terms.requestor_id or not record.ours:
            return "the provider's node knows no such proposal (any more)"
        try:
            demand = check_acceptable(record)
        except MarketError as error:
            return str(error)
        agreed = AgreementTerms(
            network=terms.network,
            requestor_id=record.negotiation.peer,
            provider_id=record.negotiation.owner,
            demand_id=record.negotiation.demand_id,
            offer_id=record.negotiation.offer_id,
            proposal_id=record.hash,
            demand_properties=demand.properties.text,
            demand_constraints=demand.constraints,
            offer_properties=record.properties.text,
            offer_constraints=record.constraints,
            created_ns=terms.created_ns,
            valid_to_ns=terms.valid_to_ns,
        )
        if agreed != terms:
            return "the terms are not what was negotiated"
        if terms.valid_to_ns <= now_ns or terms.created_ns > now_ns + SKEW_NS:
            return "the agreement has expired already, or one of the clocks is wrong"
        if self._subscriptions.find("offer", terms.offer_id, now_ns) is None:
            return f"Subscription [{terms.offer_id}] is not active any more."
        return None

    async def approved(self, caller: Caller, message: AgreementApproved) -> AgreementStatus:
        """Take the provider's approval; our status says whether we are bound."""
        theirs = AgreementStatus(_S.APPROVING, message.approved_ns, message.signature)
        return await self._learn(message.agreement_id, Role.REQUESTOR, caller.node_id, theirs)

    async def committed(self, caller: Caller, message: AgreementCommitted) -> AgreementStatus:
        """Take the requestor's commitment."""
        theirs = AgreementStatus(_S.APPROVED, committed_signature=message.signature)
        return await self._learn(message.agreement_id, Role.PROVIDER, caller.node_id, theirs)

    async def rejected(self, caller: Caller, message: AgreementRejected) -> AgreementStatus:
        """Take the provider's rejection."""
        end = AgreementEnd(Role.PROVIDER, message.at_ns, message.reason, message.signature)
        theirs = AgreementStatus(_S.REJECTED, ended=end)
        return await self._learn(message.agreement_id, Role.REQUESTOR, caller.node_id, theirs)

    async def cancelled(self, caller: Caller, message: AgreementCancelled) -> AgreementStatus:
        """Take the requestor's cancellation, also of what never arrived."""
        end = AgreementEnd(Role.REQUESTOR, message.at_ns, message.reason, message.signature)
        theirs = AgreementStatus(_S.CANCELLED, ended=end)
        try:
            return await self._learn(message.agreement_id, Role.PROVIDER, caller.node_id, theirs)
        except NotFound:
            return AgreementStatus(None)

    async def terminated(self, caller: Caller, message: AgreementTerminated) -> AgreementStatus:
        """Take the news that the other side has ended the agreement."""
        for mine, other in ((Role.PROVIDER, Role.REQUESTOR), (Role.REQUESTOR, Role.PROVIDER)):
            end = AgreementEnd(other, message.at_ns, message.reason, message.signature)
            theirs = AgreementStatus(_S.TERMINATED, ended=end)
            try:
                return await self._learn(message.agreement_id, mine, caller.node_id, theirs)
            except NotFound:
                continue
        raise NotFound(f"Agreement [{message.agreement_id[:128]}] not found.")

    async def synced(self, caller: Caller, message: SyncAgreement) -> AgreementStatus:
        """Compare with the other node."""
        for role in Role:
            try:
                return await self._learn(message.agreement_id, role, caller.node_id, message.status)
            except NotFound:
                continue
        return AgreementStatus(None)

    async def peer_returned(self, peer: str) -> None:
        """Deliver what waits for a peer that has just been heard of, and compare what is open with it."""
        await self._outbox.wake_peer(peer)
        wanted = store.Filter(peer=peer, states=core.OPEN)
        for mine in (await self._ctx.database.read(lambda c: store.select(c, wanted)))[-MAX_SYNCED:]:
            if mine.role is Role.REQUESTOR and not mine.received:
                continue  # the outbox brings it
            address = net_address(peer, PROTOCOL)
            try:
                message = SyncAgreement(mine.agreement_id, mine.status())
                theirs = await ask(self._ctx.bus, address, message, AgreementStatus)
                await self._learn(mine.agreement_id, mine.role, peer, theirs)
            except MarketError as error:
                self._ctx.log.warning(
                    "a peer's word on an agreement was refused", peer=peer, error=str(error)
                )
            except RemoteError as error:
                self._ctx.log.debug("a peer did not compare an agreement", peer=peer, error=str(error))
            except BusError:
                return  # gone again; it will be heard of again

    # --- the outbox -----------------------------------------------------------------------------------------------

    async def _delivered(self, item: Item, reply: bytes) -> None:
        letter, agreement_id, _ = item.key.split("/")
        role = Role.REQUESTOR if letter == "R" else Role.PROVIDER
        try:
            theirs = codec.decode(reply, AgreementStatus)
            received = item.method == AgreementReceived.__name__
            await self._learn(agreement_id, role, item.peer, theirs, received=received)
        except (codec.CodecError, MarketError) as error:
            self._ctx.log.warning("a peer's answer was refused", method=item.method, error=str(error))

    async def _refused(self, item: Item, error: RemoteError) -> bool:
        if error.kind not in (NotFound.kind, BadRequest.kind, Forbidden.kind, Gone.kind):
            return False
        self._ctx.log.warning("a peer refused a message", method=item.method, error=error.message)
        if item.method == AgreementReceived.__name__:
            await self._give_up(
                item.key.split("/")[1], f"the provider's node refused the agreement: {error.message}"
            )
        return True

    async def _give_up(self, agreement_id: str, why: str) -> None:
        now = self._ctx.clock.utc_ns()

        def give_up(c: Connection) -> Agreement | None:
            mine = store.load(c, agreement_id, Role.REQUESTOR)
            if mine is None or mine.state is not _S.PENDING or mine.received:
                return None
            word = core.signed_end(mine, Step.CANCEL, reason_of(why), now, self._signer_of(mine.owner))
            mine = core.advance(mine, Step.CANCEL, end=word)
            self._promise_end(c, mine, now)
            return self._keep(c, [mine], now)[-1]

        mine = await self._ctx.database.write(give_up, durable=True)
        if mine is not None:
            self._announce([mine], now)

    # --- time -----------------------------------------------------------------------------------------------------

    def _replan(self) -> None:
        self._due_ns = 0
        self._hooks.replanned()

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
            await self._give_up(mine.agreement_id, "the provider's node could not be reached")
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
        return self._keep(c, [core.advance(mine, Step.EXPIRE) for mine in due], now_ns)

    def _announce_expired(self, steps: Sequence[Agreement], now_ns: int) -> None:
        if steps:
            self._announce(steps, now_ns)

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
