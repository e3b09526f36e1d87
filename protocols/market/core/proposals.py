"""The state machine of proposals, and the chains that they form.

A negotiation is about one offer and one demand. It begins with an Initial proposal, which the requestor's node
makes of an offer that matches, and goes on by counter-proposals: one for each, so that it is a chain, never a
tree. Whoever received a proposal may counter, reject, and after rejecting still counter it; the requestor may
make an agreement of the provider's.

Both nodes keep a chain of their own; the same hash names a proposal on both. All of it is in memory: a restart
forgets negotiations, and the agents begin anew.
"""

from __future__ import annotations

import dataclasses
import enum
import heapq
import itertools
from typing import TYPE_CHECKING, Literal

from protocols.market import ids
from protocols.market.errors import (
    BadRequest,
    Conflict,
    Gone,
    LimitReached,
    MarketError,
    NotFound,
    NotMatching,
)
from protocols.market.events import Proposal, ProposalState
from protocols.market.language import Constraint, ConstraintError, PropertySet, Verdict, match
from protocols.market.messages import ProposalContent, Role

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_OPEN_PER_PAIR = 20
"""Negotiations that one requestor may have going on about one offer of ours."""
MAX_KEPT_PER_PAIR = 100
"""And how many that ended are remembered besides."""
MAX_ROUNDS = 100
"""Proposals in one chain."""
MAX_RECORDS = 200_000
"""Proposals that a node remembers."""


class Step(enum.Enum):
    """What the receiver of a proposal can do with it."""

    COUNTER = "counter"
    REJECT = "reject"
    ACCEPT = "accept"


_UNCHANGED = None

TRANSITIONS: dict[tuple[ProposalState, Step], ProposalState | None] = {
    ("Initial", Step.COUNTER): _UNCHANGED,
    ("Draft", Step.COUNTER): _UNCHANGED,
    ("Accepted", Step.COUNTER): _UNCHANGED,
    # Countering what one has rejected takes the negotiation up again.
    ("Rejected", Step.COUNTER): "Draft",
    ("Initial", Step.REJECT): "Rejected",
    ("Draft", Step.REJECT): "Rejected",
    ("Rejected", Step.REJECT): _UNCHANGED,
    ("Draft", Step.ACCEPT): "Accepted",
}
"""(state, step) → the next state; what is missing is refused."""


@dataclasses.dataclass(slots=True, eq=False)
class Negotiation:
    """One offer and one demand, on one side's node."""

    role: Role
    """Our side."""
    owner: str
    peer: str
    offer_id: str
    demand_id: str
    expires_ns: int

    @property
    def subscription_id(self) -> str:
        """Our own side's subscription."""
        return self.demand_id if self.role is Role.REQUESTOR else self.offer_id

    @property
    def kind(self) -> Literal["offer", "demand"]:
        """What our own side's subscription is."""
        return "demand" if self.role is Role.REQUESTOR else "offer"

    @property
    def other(self) -> Role:
        """The other side."""
        return Role.PROVIDER if self.role is Role.REQUESTOR else Role.REQUESTOR


@dataclasses.dataclass(slots=True, eq=False)
class Record:
    """One proposal in its chain."""

    negotiation: Negotiation
    hash: str
    issuer: Role
    properties: PropertySet
    constraints: str
    created_ns: int
    state: ProposalState
    prev: Record | None = None
    counter: Record | None = None
    round: int = 0
    reason: str | None = None
    """Why it was rejected."""

    @property
    def id(self) -> str:
        """The id as our side shows it."""
        return ids.proposal_id(self.negotiation.role, self.hash)

    @property
    def ours(self) -> bool:
        """Whether our side has issued it."""
        return self.issuer is self.negotiation.role

    def view(self) -> Proposal:
        """Return what an agent is shown."""
        negotiation = self.negotiation
        return Proposal(
            proposal_id=self.id,
            prev_proposal_id=self.prev.id if self.prev else None,
            issuer_id=negotiation.owner if self.ours else negotiation.peer,
            state=self.state,
            properties=self.properties.text,
            constraints=self.constraints,
            created_ns=self.created_ns,
        )

    def content(self) -> ProposalContent:
        """Return what the other side is told."""
        return ProposalContent(
            id=self.hash,
            properties=self.properties.text,
            constraints=self.constraints,
            created_ns=self.created_ns,
        )


class Negotiations:
    """All proposals that a node knows."""

    def __init__(self) -> None:
        self._records: dict[tuple[Role, str], Record] = {}
        self._chains: dict[Negotiation, list[Record]] = {}
        self._pairs: dict[tuple[str, str], dict[Negotiation, None]] = {}
        self._ends: list[tuple[int, int, Negotiation]] = []
        self._serial = itertools.count()

    def __len__(self) -> int:
        return len(self._records)

    def begin(
        self,
        negotiation: Negotiation,
        initial_hash: str,
        properties: PropertySet,
        constraints: str,
        created_ns: int,
    ) -> Record:
        """Begin a negotiation with its Initial proposal: the offer itself.

        Raises:
            LimitReached: there are too many between the two, or in all.
            Conflict: that proposal is known already.
        """
        role = negotiation.role
        if (role, initial_hash) in self._records:
            raise Conflict(f"Proposal [{ids.proposal_id(role, initial_hash)}] exists already.")
        if role is Role.PROVIDER:
            self._make_room(negotiation)
        record = Record(
            negotiation, initial_hash, Role.PROVIDER, properties, constraints, created_ns, "Initial"
        )
        self._add(record)
        if role is Role.PROVIDER:
            self._pairs.setdefault(_pair(negotiation), {})[negotiation] = None
        heapq.heappush(self._ends, (negotiation.expires_ns, next(self._serial), negotiation))
        return record

    def find(self, role: Role, proposal: str) -> Record | None:
        """Return a proposal by our side and its hash."""
        return self._records.get((role, proposal))

    def of_subscription(self, owner: str, subscription: str, proposal_id: str) -> Record:
        """Return the proposal if it belongs to that subscription of that identity. Raises NotFound, InvalidId."""
        role, proposal = ids.split_proposal_id(proposal_id)
        record = self.find(role, proposal)
        if (
            record is None
            or record.negotiation.owner != owner
            or record.negotiation.subscription_id != subscription
        ):
            raise NotFound(f"Proposal [{proposal_id}] not found.")
        return record

    def counter(
        self, prev: Record, issuer: Role, properties: PropertySet, constraints: str, created_ns: int
    ) -> Record:
        """Add a counter-proposal to `prev`.

        Raises:
            BadRequest: it is the issuer's own; NotMatching: the contents do not fit.
            Gone: it was countered before, or the chain is at its end.
        """
        check_reaction(prev, issuer)
        next_state = _step(prev, Step.COUNTER)
        if prev.round >= MAX_ROUNDS:
            raise Gone(f"Proposal [{prev.id}] ends a chain of {MAX_ROUNDS} proposals; begin anew.")
        negotiation = prev.negotiation
        proposal = ids.proposal_hash(
            negotiation.offer_id,
            negotiation.demand_id,
            prev.hash,
            issuer,
            created_ns,
            properties.text,
            constraints,
        )
        record = Record(
            negotiation,
            proposal,
            issuer,
            properties,
            constraints,
            created_ns,
            "Draft",
            prev,
            round=prev.round + 1,
        )
        check_match(record, prev)
        self._add(record)
        prev.counter = record
        if prev.state == "Rejected":
            prev.state = "Initial" if prev.prev is None else next_state
        return record

    def abandon(self, negotiation: Negotiation) -> None:
        """Forget a negotiation that did not come about."""
        for record in self._chains.pop(negotiation, ()):
            self._records.pop((negotiation.role, record.hash), None)
        if negotiation.role is Role.PROVIDER and (pair := self._pairs.get(_pair(negotiation))) is not None:
            pair.pop(negotiation, None)
            if not pair:
                del self._pairs[_pair(negotiation)]

    def withdraw(self, record: Record) -> None:
        """Take back the last proposal of a chain, as if it had not been made: the peer refused it."""
        if record.prev is not None and record.prev.counter is record and record.counter is None:
            record.prev.counter = None
            self._records.pop((record.negotiation.role, record.hash), None)
            self._chains[record.negotiation].remove(record)

    def reject(self, record: Record, by: Role, reason: str | None) -> bool:
        """Mark a proposal as refused by its receiver; return whether that is news.

        Raises:
            BadRequest: it is the issuer's own. Gone: it was countered. Conflict: it is an agreement.
        """
        check_reaction(record, by)
        before = record.state, record.reason
        record.state, record.reason = _step(record, Step.REJECT), reason
        return before != (record.state, record.reason)

    def expire(self, now_ns: int) -> int | None:
        """Forget the negotiations that are over; return when the next one is."""
        while self._ends and self._ends[0][0] <= now_ns:
            _, _, negotiation = heapq.heappop(self._ends)
            self.abandon(negotiation)
        return self._ends[0][0] if self._ends else None

    def chain(self, negotiation: Negotiation) -> Iterator[Record]:
        """Yield the proposals of a negotiation, oldest first."""
        yield from self._chains.get(negotiation, ())

    def _make_room(self, negotiation: Negotiation) -> None:
        pair = self._pairs.get(_pair(negotiation), {})
        ended = [n for n in pair if self._chains[n][-1].state in ("Rejected", "Accepted", "Expired")]
        if len(pair) - len(ended) >= MAX_OPEN_PER_PAIR:
            raise LimitReached(f"there are {MAX_OPEN_PER_PAIR} negotiations about this offer already")
        if len(ended) >= MAX_KEPT_PER_PAIR:
            self.abandon(ended[0])

    def _add(self, record: Record) -> None:
        if len(self._records) >= MAX_RECORDS:
            raise LimitReached(f"this node has {MAX_RECORDS} proposals open; try again later")
        self._records[record.negotiation.role, record.hash] = record
        self._chains.setdefault(record.negotiation, []).append(record)


def check_reaction(record: Record, by: Role) -> None:
    """Return if that side may react to the proposal now. Raises BadRequest, Gone."""
    if record.issuer is by:
        raise BadRequest(f"Can't react to own Proposal [{record.id}].")
    if record.counter is not None:
        raise Gone(f"Proposal [{record.id}] already has counter proposal. Can't counter for the second time.")


def check_match(new: Record, prev: Record) -> None:
    """Return if a proposal fits the one that it answers, in both directions. Raises NotMatching."""
    demand, offer = (new, prev) if new.issuer is Role.REQUESTOR else (prev, new)
    try:
        result = match(
            demand.properties,
            Constraint.parse(demand.constraints),
            offer.properties,
            Constraint.parse(offer.constraints),
        )
    except ConstraintError as error:
        raise NotMatching(
            f"Can't match Proposal [{new.id}] with previous Proposal [{prev.id}]. Error: {error}"
        ) from error
    if result.verdict is not Verdict.MATCH:
        raise NotMatching(
            f"Proposal properties [{new.id}] doesn't match previous Proposal [{prev.id}]. Mismatched constraints"
            f" - Offer: {_names(result.offer_mismatch)}, Demand: {_names(result.demand_mismatch)}"
        )


def accept(record: Record) -> Record:
    """Mark the provider's proposal as made into an agreement; return the demand's proposal before it.

    Raises:
        BadRequest: it is the requestor's own, was rejected, or nothing was negotiated.
        Conflict: there is an agreement already.
    """
    prev = check_acceptable(record)
    record.state = _step(record, Step.ACCEPT)
    return prev


def check_acceptable(record: Record) -> Record:
    """Return the demand's proposal that the provider's answers, if an agreement may be made. Raises as `accept`."""
    problem: MarketError | None = None
    if record.issuer is Role.REQUESTOR:
        problem = BadRequest(
            f"Can't create Agreement for an own Proposal [{record.id}]. "
            "You can promote only provider's Proposals to Agreement."
        )
    elif record.state == "Rejected":
        problem = BadRequest(f"Can't create Agreement for rejected Proposal [{record.id}].")
    elif record.state == "Initial" or record.prev is None:
        problem = BadRequest(
            f"Can't create Agreement for Proposal [{record.id}]. No negotiation with Provider took place. "
            "(You should counter Proposal at least one time)"
        )
    elif record.state == "Accepted":
        problem = Conflict(f"Can't create second Agreement for Proposal [{record.id}].")
    elif record.counter is not None:
        problem = BadRequest(
            f"Can't create Agreement for Proposal [{record.id}]. It has a counter proposal already."
        )
    if problem is not None:
        raise problem
    assert record.prev is not None
    return record.prev


def _step(record: Record, step: Step) -> ProposalState:
    key = (record.state, step)
    if key not in TRANSITIONS:
        raise Conflict(f"Can't {step.value} Proposal [{record.id}] in state {record.state}.")
    return TRANSITIONS[key] or record.state


def _pair(negotiation: Negotiation) -> tuple[str, str]:
    return negotiation.offer_id, negotiation.peer


def _names(references: tuple[str, ...]) -> str:
    return "[" + ", ".join(f'"{name}"' for name in dict.fromkeys(references)) + "]"
