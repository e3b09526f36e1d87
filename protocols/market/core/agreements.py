"""The state machine of an agreement: one copy on each of two nodes, which agree in the end whatever is lost.

    Proposal ──confirm──▶ Pending ──approve──▶ Approving ──commit──▶ Approved ──terminate──▶ Terminated
       │                     │  └──reject──▶ Rejected    (provider only)
       └──cancel, expire──▶ Cancelled, Expired ◀──cancel, expire──┘

Each decision has one owner, so no race needs the other node to be settled:

* until the requestor is bound, it alone may cancel; whether and when it is bound, it decides alone, when it
  reads the provider's signed approval (`Pending → Approved` on its node);
* the provider may reject until it has signed; from then on (`Approving`) it waits for the requestor's word;
* an approved agreement is ended by either side alone, at once.

What one node knows of an agreement is an `AgreementStatus`, signatures included. Whatever comes from the peer
(a message, an answer, a sync) is read as one and given to `learn`, the only way by which the other side changes
our state. It is idempotent, and independent of order and loss: the newest status is enough.
"""

from __future__ import annotations

import enum
import json
from typing import TYPE_CHECKING

import msgspec

from protocols.ground.times import MILLISECOND, SECOND
from protocols.market.core.signatures import (
    approval_digest,
    check_end,
    check_signature,
    commitment_digest,
    end_digest,
    side_of,
)
from protocols.market.errors import BadRequest, Conflict, WrongState
from protocols.market.messages import (
    AgreementEnd,
    AgreementState,
    AgreementStatus,
    AgreementTerms,
    AgreementView,
    Role,
)

if TYPE_CHECKING:
    from p2p.identity import Signer

COMMIT_MARGIN_NS = 30 * MILLISECOND
"""How long before the end of its validity a requestor no longer takes an approval; the original's figure."""
APPROVAL_GRACE_NS = 120 * SECOND
"""How long after the end of validity a provider that has signed waits for the requestor's word."""


class Step(enum.Enum):
    """What can happen to an agreement, by the state that it leads to."""

    CONFIRM = AgreementState.PENDING
    APPROVE = AgreementState.APPROVING
    COMMIT = AgreementState.APPROVED
    REJECT = AgreementState.REJECTED
    CANCEL = AgreementState.CANCELLED
    EXPIRE = AgreementState.EXPIRED
    TERMINATE = AgreementState.TERMINATED


_S, _R, _P = AgreementState, Role.REQUESTOR, Role.PROVIDER

LOCAL: dict[tuple[Role, Step], frozenset[AgreementState]] = {
    (_R, Step.CONFIRM): frozenset({_S.PROPOSAL}),
    (_R, Step.CANCEL): frozenset({_S.PROPOSAL, _S.PENDING}),
    (_R, Step.EXPIRE): frozenset({_S.PROPOSAL, _S.PENDING}),
    (_R, Step.TERMINATE): frozenset({_S.APPROVED}),
    (_P, Step.APPROVE): frozenset({_S.PENDING}),
    (_P, Step.REJECT): frozenset({_S.PENDING}),
    (_P, Step.EXPIRE): frozenset({_S.PENDING, _S.APPROVING}),
    (_P, Step.TERMINATE): frozenset({_S.APPROVED}),
}
"""What our own side may do, and from which states."""

LEARNT: dict[tuple[Role, Step], frozenset[AgreementState]] = {
    (_R, Step.COMMIT): frozenset({_S.PENDING}),
    (_R, Step.REJECT): frozenset({_S.PENDING}),
    (_R, Step.CANCEL): frozenset({_S.PENDING}),
    (_R, Step.EXPIRE): frozenset({_S.PENDING}),
    (_R, Step.TERMINATE): frozenset({_S.APPROVED}),
    (_P, Step.COMMIT): frozenset({_S.PENDING, _S.APPROVING}),
    (_P, Step.REJECT): frozenset({_S.PENDING}),
    # The requestor's word decides, even over what the provider did meanwhile.
    (_P, Step.CANCEL): frozenset({_S.PENDING, _S.APPROVING, _S.REJECTED, _S.EXPIRED}),
    (_P, Step.EXPIRE): frozenset({_S.PENDING, _S.APPROVING, _S.REJECTED}),
    (_P, Step.TERMINATE): frozenset({_S.APPROVING, _S.APPROVED, _S.EXPIRED}),
}
"""What follows from the other side's word (or from our own, after our disk was set back)."""

FINAL = frozenset({_S.CANCELLED, _S.REJECTED, _S.EXPIRED, _S.TERMINATED})
OPEN = frozenset({_S.PENDING, _S.APPROVING, _S.APPROVED})
"""States in which the other node knows of the agreement, and may know more."""


class Agreement(msgspec.Struct, frozen=True):
    """One node's copy."""

    agreement_id: str
    role: Role
    """Our side."""
    terms: AgreementTerms
    state: AgreementState
    app_session_id: str | None = None
    proposed_signature: bytes | None = None
    approved_ns: int | None = None
    approved_signature: bytes | None = None
    committed_signature: bytes | None = None
    end: AgreementEnd | None = None
    confirmed_ns: int | None = None
    """Requestor: when it was confirmed."""
    received: bool = False
    """Requestor: whether the provider's node has it."""

    @property
    def owner(self) -> str:
        """NodeId of our side."""
        return side_of(self.terms, self.role)

    @property
    def peer(self) -> str:
        """NodeId of the other side."""
        return side_of(self.terms, _P if self.role is _R else _R)

    def status(self) -> AgreementStatus:
        """Return what the peer is told of where the agreement stands."""
        return AgreementStatus(
            state=self.state,
            approved_ns=self.approved_ns,
            approved_signature=self.approved_signature,
            committed_signature=self.committed_signature,
            ended=self.end,
        )

    def view(self) -> AgreementView:
        """Return what clients and other protocols are shown."""
        terms, end = self.terms, self.end
        bound = self.committed_signature is not None
        return AgreementView(
            agreement_id=self.agreement_id,
            role=self.role,
            requestor_id=terms.requestor_id,
            provider_id=terms.provider_id,
            demand_id=terms.demand_id,
            offer_id=terms.offer_id,
            demand_properties=terms.demand_properties,
            demand_constraints=terms.demand_constraints,
            offer_properties=terms.offer_properties,
            offer_constraints=terms.offer_constraints,
            state=self.state,
            created_ns=terms.created_ns,
            valid_to_ns=terms.valid_to_ns,
            approved_ns=self.approved_ns if bound else None,
            app_session_id=self.app_session_id,
            proposed_signature=_hex(self.proposed_signature),
            approved_signature=_hex(self.approved_signature),
            committed_signature=_hex(self.committed_signature),
            terminator=end.by if end else None,
            reason=end.reason if end else None,
            ended_ns=end.at_ns if end else None,
        )


def advance(agreement: Agreement, step: Step, **changes: object) -> Agreement:
    """Return the agreement after our own side took `step`.

    Raises:
        Conflict: it is a Proposal still, so the step comes too early.
        WrongState: it is too late for the step.
    """
    if agreement.state not in LOCAL.get((agreement.role, step), ()):
        wrong = WrongState(agreement.state, step.value)
        if agreement.state is _S.PROPOSAL:
            raise Conflict(str(wrong))
        raise wrong
    return _moved(agreement, step, **changes)


def due_ns(agreement: Agreement) -> int | None:
    """Return when the agreement expires if nothing happens, or None if it does not."""
    if agreement.state in (_S.PROPOSAL, _S.PENDING):
        return agreement.terms.valid_to_ns
    if agreement.state is _S.APPROVING:
        return agreement.terms.valid_to_ns + APPROVAL_GRACE_NS
    return None


def expired(agreement: Agreement, now_ns: int) -> Agreement | None:
    """Return the agreement as expired if its time is over, else None."""
    due = due_ns(agreement)
    return advance(agreement, Step.EXPIRE) if due is not None and due < now_ns else None


def signed_end(
    agreement: Agreement, step: Step, reason: str | None, now_ns: int, signer: Signer
) -> AgreementEnd:
    """Return our side's signed word that it rejects, cancels or terminates the agreement."""
    digest = end_digest(agreement.agreement_id, step.value, agreement.role, now_ns, reason)
    return AgreementEnd(by=agreement.role, at_ns=now_ns, reason=reason, signature=signer.sign(digest))


def learn(agreement: Agreement, theirs: AgreementStatus, now_ns: int, signer: Signer) -> list[Agreement]:
    """Return what the agreement becomes, step by step, by what the other side says; empty if nothing.

    The caller keeps each, in one transaction, and tells of each. A requestor that is shown a valid approval
    in time commits itself here.

    Raises:
        Forbidden: a signature is not the one that it should be.
        BadRequest: a status that lacks what its state needs.
    """
    learner = _Learner(agreement, now_ns)
    if theirs.state is _S.APPROVING and agreement.role is _R and agreement.state is _S.PENDING:
        learner.decide_on_approval(theirs, signer)
    if theirs.state in (_S.APPROVED, _S.TERMINATED) and theirs.committed_signature is not None:
        learner.adopt_commitment(theirs)
    match theirs.state:
        case _S.REJECTED | _S.CANCELLED | _S.TERMINATED:
            learner.adopt_end(theirs.state, theirs.ended)
        case _S.EXPIRED:
            learner.adopt_expiry(signer)
    return learner.steps


class _Learner:
    def __init__(self, agreement: Agreement, now_ns: int) -> None:
        self.steps: list[Agreement] = []
        self._now = now_ns
        self._agreement = agreement

    def decide_on_approval(self, theirs: AgreementStatus, signer: Signer) -> None:
        mine = self._agreement
        if mine.terms.valid_to_ns <= self._now + COMMIT_MARGIN_NS:
            self._take(Step.EXPIRE)
            return
        approved = self._check_approval(theirs)
        committed = signer.sign(commitment_digest(mine.agreement_id, approved))
        self._take(
            Step.COMMIT,
            received=True,
            approved_ns=theirs.approved_ns,
            approved_signature=approved,
            committed_signature=committed,
        )

    def adopt_commitment(self, theirs: AgreementStatus) -> None:
        mine = self._agreement
        committed = theirs.committed_signature
        if not self._may(Step.COMMIT) or committed is None:
            return
        if theirs.approved_signature is None and mine.approved_signature is not None:
            # `AgreementCommitted` leaves out what we have signed ourselves.
            theirs = msgspec.structs.replace(
                theirs, approved_ns=mine.approved_ns, approved_signature=mine.approved_signature
            )
        approved = self._check_approval(theirs)
        requestor = side_of(mine.terms, _R)
        digest = commitment_digest(mine.agreement_id, approved)
        check_signature(digest, committed, requestor, "commitment")
        self._take(
            Step.COMMIT,
            approved_ns=theirs.approved_ns,
            approved_signature=approved,
            committed_signature=committed,
        )

    def adopt_end(self, state: AgreementState, end: AgreementEnd | None) -> None:
        if not self._may(Step(state)):
            return
        if end is None:
            raise BadRequest(f"the status {state.value} lacks who ended the agreement, and the signature")
        sides = {_S.REJECTED: (_P,), _S.CANCELLED: (_R,), _S.TERMINATED: (_R, _P)}[state]
        if end.by not in sides:
            raise BadRequest(f"an agreement is not {state.value} by the {end.by.value}")
        check_end(self._agreement.agreement_id, self._agreement.terms, state, end)
        self._take(Step(state), end=end)

    def adopt_expiry(self, signer: Signer) -> None:
        mine = self._agreement
        if mine.role is _P:
            if self._may(Step.EXPIRE):
                self._take(Step.EXPIRE)
        elif self._may(Step.TERMINATE):
            # Our commitment never reached the provider, which has given up waiting for it: nobody will work.
            message = "the provider gave the agreement up before the commitment reached it"
            reason = json.dumps({"message": message, "golem.requestor.code": "Expired"})
            self._take(Step.TERMINATE, end=signed_end(mine, Step.TERMINATE, reason, self._now, signer))

    def _check_approval(self, theirs: AgreementStatus) -> bytes:
        mine = self._agreement
        if theirs.approved_ns is None or theirs.approved_signature is None or mine.proposed_signature is None:
            raise BadRequest("the approval lacks its time or its signature")
        digest = approval_digest(mine.agreement_id, mine.proposed_signature, theirs.approved_ns)
        check_signature(digest, theirs.approved_signature, side_of(mine.terms, _P), "approval")
        return theirs.approved_signature

    def _may(self, step: Step) -> bool:
        return self._agreement.state in LEARNT.get((self._agreement.role, step), ())

    def _take(self, step: Step, **changes: object) -> None:
        self._agreement = _moved(self._agreement, step, **changes)
        self.steps.append(self._agreement)


def _moved(agreement: Agreement, step: Step, **changes: object) -> Agreement:
    return msgspec.structs.replace(agreement, state=step.value, **changes)


def _hex(signature: bytes | None) -> str | None:
    return None if signature is None else signature.hex()
