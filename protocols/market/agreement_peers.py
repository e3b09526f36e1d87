"""What the other node says of agreements: its messages, its answers, and what a comparison brings out.

Whatever comes becomes an `AgreementStatus` and goes through `core.agreements.learn`; our answer is our own
status. Called by peers through the handler, by the outbox, and when a peer comes back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import trio

from p2p import codec
from p2p.bus import BusError, RemoteError, ask, net_address
from protocols.market import events, ids, store
from protocols.market.agreement_records import NOTICE_KEPT_NS
from protocols.market.core import agreements as core
from protocols.market.core.agreements import Agreement, Step
from protocols.market.core.catalogue import SKEW_NS
from protocols.market.core.proposals import Record, accept, check_acceptable
from protocols.market.core.signatures import check_signature, side_of, terms_digest
from protocols.market.errors import BadRequest, Forbidden, Gone, LimitReached, MarketError, NotFound
from protocols.market.messages import (
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
    from collections.abc import Sequence

    from p2p.bus import Caller
    from p2p.identity import Signer
    from p2p.storage import Connection
    from protocols.ground.outbox import Item
    from protocols.market.agreement_records import AgreementRecords
    from protocols.market.core.proposals import Negotiations
    from protocols.market.subscriptions import Subscriptions

MAX_SYNCED = 500
"""Agreements compared when a peer comes back; the newest ones."""
SYNC_TIMEOUT = 10.0
"""Seconds for one comparison."""
_S = AgreementState


class AgreementPeers:
    """The other nodes' part in agreements."""

    def __init__(self, records: AgreementRecords, subscriptions: Subscriptions, book: Negotiations) -> None:
        self._ctx = records.ctx
        self._records = records
        self._subscriptions = subscriptions
        self._book = book
        self._receiving = trio.Lock()

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
            return mine, core.learn(mine, theirs, now, self._records.signer_of(mine.owner))

        def learn(c: Connection) -> tuple[Agreement, Sequence[Agreement]]:
            mine, steps = decide(c)
            self._records.keep(c, steps, now)
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
            self._records.announce(kept, now)
        return last.status()

    def _promise_what_follows(self, c: Connection, mine: Agreement, now_ns: int) -> None:
        if mine.role is not Role.REQUESTOR:
            return
        if mine.state is _S.APPROVED and mine.committed_signature is not None:
            message = AgreementCommitted(mine.agreement_id, mine.committed_signature)
            self._records.promise(c, mine, message, now_ns + NOTICE_KEPT_NS)
        elif mine.state is _S.TERMINATED and mine.end is not None and mine.end.by is Role.REQUESTOR:
            self._records.promise_end(c, mine, now_ns)

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
        signer = self._records.signer_of(terms.provider_id)
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
        self._records.announce([mine], now)
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
        await self._records.outbox.wake_peer(peer)
        wanted = store.Filter(peer=peer, states=core.OPEN)
        for mine in (await self._ctx.database.read(lambda c: store.select(c, wanted)))[-MAX_SYNCED:]:
            if mine.role is Role.REQUESTOR and not mine.received:
                continue  # the outbox brings it
            address = net_address(peer, PROTOCOL)
            try:
                message = SyncAgreement(mine.agreement_id, mine.status())
                theirs = await ask(self._ctx.bus, address, message, AgreementStatus, timeout=SYNC_TIMEOUT)
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

    async def delivered(self, item: Item, reply: bytes) -> None:
        """Take a peer's answer to a message of ours."""
        letter, agreement_id, _ = item.key.split("/")
        role = Role.REQUESTOR if letter == "R" else Role.PROVIDER
        try:
            theirs = codec.decode(reply, AgreementStatus)
            received = item.method == AgreementReceived.__name__
            await self._learn(agreement_id, role, item.peer, theirs, received=received)
        except (codec.CodecError, MarketError) as error:
            self._ctx.log.warning("a peer's answer was refused", method=item.method, error=str(error))

    async def refused(self, item: Item, error: RemoteError) -> bool:
        """Return whether a peer's refusal of a message of ours is its last word."""
        if error.kind not in (NotFound.kind, BadRequest.kind, Forbidden.kind, Gone.kind):
            return False
        self._ctx.log.warning("a peer refused a message", method=item.method, error=error.message)
        if item.method == AgreementReceived.__name__:
            await self._records.give_up(
                item.key.split("/")[1], f"the provider's node refused the agreement: {error.message}"
            )
        return True
