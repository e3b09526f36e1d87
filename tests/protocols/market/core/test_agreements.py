"""The agreement's state machine: its tables, its signatures, and that two copies of it always come together."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p.entropy import SeededEntropy
from p2p.identity import PrivateKey
from protocols.ground.times import SECOND
from protocols.market import ids
from protocols.market.core import agreements as core
from protocols.market.core.agreements import Agreement, Step, advance, learn, signed_end
from protocols.market.core.signatures import approval_digest, commitment_digest, terms_digest
from protocols.market.errors import BadRequest, Conflict, Forbidden, WrongState
from protocols.market.messages import AgreementEnd, AgreementState, AgreementStatus, AgreementTerms, Role

S = AgreementState
REQUESTOR, PROVIDER, STRANGER = (
    PrivateKey.generate(SeededEntropy(1, name)) for name in ("requestor", "provider", "stranger")
)
NOW = 1_800_000_000 * SECOND
TERMS = AgreementTerms(
    network="devnet",
    requestor_id=REQUESTOR.node_id,
    provider_id=PROVIDER.node_id,
    demand_id="d",
    offer_id="o",
    proposal_id="p",
    demand_properties="{}",
    demand_constraints="()",
    offer_properties="{}",
    offer_constraints="()",
    created_ns=NOW,
    valid_to_ns=NOW + 600 * SECOND,
)
ID = ids.agreement_id(TERMS)


def proposed(role: Role) -> Agreement:
    return Agreement(ID, role, TERMS, S.PROPOSAL)


def confirmed(role: Role) -> Agreement:
    signature = REQUESTOR.sign(terms_digest(TERMS))
    return msgspec.structs.replace(proposed(role), state=S.PENDING, proposed_signature=signature)


def approve(mine: Agreement, now: int = NOW) -> Agreement:
    assert mine.proposed_signature is not None
    signature = PROVIDER.sign(approval_digest(ID, mine.proposed_signature, now))
    return advance(mine, Step.APPROVE, approved_ns=now, approved_signature=signature)


def in_state(role: Role, state: AgreementState) -> Agreement:
    """Return an agreement that is consistently in a state."""
    mine = confirmed(role)
    if state in (S.APPROVING, S.APPROVED, S.TERMINATED):
        approving = approve(confirmed(Role.PROVIDER))
        mine = msgspec.structs.replace(approving, role=role)
    if state in (S.APPROVED, S.TERMINATED):
        assert mine.approved_signature is not None
        committed = REQUESTOR.sign(commitment_digest(ID, mine.approved_signature))
        mine = msgspec.structs.replace(mine, committed_signature=committed)
    return msgspec.structs.replace(mine, state=state)


def ended(step: Step, by: Role, signer: PrivateKey | None = None, at: int = NOW) -> AgreementEnd:
    key = signer or (REQUESTOR if by is Role.REQUESTOR else PROVIDER)
    return signed_end(proposed(by), step, '{"message":"x"}', at, key)


# --- our own steps --------------------------------------------------------------------------------------------

OWN_STEPS = [
    (Role.REQUESTOR, Step.CONFIRM, {S.PROPOSAL}),
    (Role.REQUESTOR, Step.CANCEL, {S.PROPOSAL, S.PENDING}),
    (Role.REQUESTOR, Step.TERMINATE, {S.APPROVED}),
    (Role.REQUESTOR, Step.APPROVE, set()),
    (Role.REQUESTOR, Step.REJECT, set()),
    (Role.PROVIDER, Step.APPROVE, {S.PENDING}),
    (Role.PROVIDER, Step.REJECT, {S.PENDING}),
    (Role.PROVIDER, Step.TERMINATE, {S.APPROVED}),
    (Role.PROVIDER, Step.CONFIRM, set()),
    (Role.PROVIDER, Step.CANCEL, set()),
]


@pytest.mark.parametrize(("role", "step", "allowed"), OWN_STEPS)
def test_a_side_may_do_what_is_its_to_decide(role: Role, step: Step, allowed: set[AgreementState]) -> None:
    for state in AgreementState:
        mine = msgspec.structs.replace(proposed(role), state=state)
        if state in allowed:
            assert advance(mine, step).state is step.value
        elif state is S.PROPOSAL:
            with pytest.raises(Conflict, match="Can't update Agreement state from Proposal to"):
                advance(mine, step)
        else:
            with pytest.raises(WrongState, match=f"from {state.value} to {step.value.value}"):
                advance(mine, step)


def test_no_final_state_is_left_by_our_own_doing() -> None:
    for (_, step), states in core.LOCAL.items():
        assert not states & core.FINAL, step


@pytest.mark.parametrize(
    ("state", "due"),
    [
        (S.PROPOSAL, TERMS.valid_to_ns),
        (S.PENDING, TERMS.valid_to_ns),
        (S.APPROVING, TERMS.valid_to_ns + core.APPROVAL_GRACE_NS),
        (S.APPROVED, None),
        (S.TERMINATED, None),
    ],
)
def test_an_approved_agreement_does_not_expire(state: AgreementState, due: int | None) -> None:
    mine = in_state(Role.PROVIDER, state) if state is not S.PROPOSAL else proposed(Role.REQUESTOR)
    assert core.due_ns(mine) == due
    assert core.expired(mine, (due or NOW) - 1) is None
    late = core.expired(mine, (due or TERMS.valid_to_ns * 2) + 1)
    assert (late is not None) == (due is not None)


# --- what follows from the other side's word -------------------------------------------------------------------


def test_a_requestor_commits_when_it_reads_the_approval() -> None:
    (mine,) = learn(confirmed(Role.REQUESTOR), approve(confirmed(Role.PROVIDER)).status(), NOW, REQUESTOR)
    assert mine.state is S.APPROVED
    (theirs,) = learn(approve(confirmed(Role.PROVIDER)), mine.status(), NOW, PROVIDER)
    assert theirs.state is S.APPROVED
    assert theirs.committed_signature == mine.committed_signature


def test_an_approval_that_comes_too_late_is_none() -> None:
    late = TERMS.valid_to_ns - core.COMMIT_MARGIN_NS
    approval = approve(confirmed(Role.PROVIDER)).status()
    assert [a.state for a in learn(confirmed(Role.REQUESTOR), approval, late - 1, REQUESTOR)] == [S.APPROVED]
    (mine,) = learn(confirmed(Role.REQUESTOR), approval, late, REQUESTOR)
    assert mine.state is S.EXPIRED
    assert [a.state for a in learn(approve(confirmed(Role.PROVIDER)), mine.status(), late, PROVIDER)] == [
        S.EXPIRED
    ]


def test_the_word_of_the_requestor_wins_over_what_the_provider_did() -> None:
    cancelled = AgreementStatus(S.CANCELLED, ended=ended(Step.CANCEL, Role.REQUESTOR))
    for state in (S.PENDING, S.APPROVING, S.REJECTED, S.EXPIRED):
        steps = learn(in_state(Role.PROVIDER, state), cancelled, NOW, PROVIDER)
        assert [step.state for step in steps] == [S.CANCELLED]
    for state in (S.APPROVED, S.TERMINATED, S.CANCELLED):
        assert learn(in_state(Role.PROVIDER, state), cancelled, NOW, PROVIDER) == []


def test_a_termination_may_be_the_first_that_the_provider_hears_of_its_commitment() -> None:
    done = msgspec.structs.replace(
        in_state(Role.REQUESTOR, S.APPROVED), state=S.TERMINATED, end=ended(Step.TERMINATE, Role.REQUESTOR)
    )
    steps = learn(approve(confirmed(Role.PROVIDER)), done.status(), NOW, PROVIDER)
    assert [step.state for step in steps] == [S.APPROVED, S.TERMINATED]


def test_a_commitment_that_the_provider_no_longer_waits_for_ends_the_agreement() -> None:
    gone = AgreementStatus(S.EXPIRED)
    (mine,) = learn(in_state(Role.REQUESTOR, S.APPROVED), gone, NOW, REQUESTOR)
    assert mine.state is S.TERMINATED
    (theirs,) = learn(in_state(Role.PROVIDER, S.EXPIRED), mine.status(), NOW, PROVIDER)
    assert theirs.state is S.TERMINATED


@pytest.mark.parametrize("role", list(Role))
def test_learning_twice_is_learning_once(role: Role) -> None:
    key = REQUESTOR if role is Role.REQUESTOR else PROVIDER
    for mine_state, their_state in itertools.product(AgreementState, AgreementState):
        other = Role.PROVIDER if role is Role.REQUESTOR else Role.REQUESTOR
        theirs = in_state(other, their_state)
        by = {S.REJECTED: Role.PROVIDER, S.CANCELLED: Role.REQUESTOR}.get(their_state, other)
        if their_state in (S.REJECTED, S.CANCELLED, S.TERMINATED):
            theirs = msgspec.structs.replace(theirs, end=ended(Step(their_state), by))
        steps = learn(in_state(role, mine_state), theirs.status(), NOW, key)
        if steps:
            assert learn(steps[-1], theirs.status(), NOW, key) == []


# --- forged words -----------------------------------------------------------------------------------------------


def test_a_forged_approval_binds_nobody() -> None:
    mine = confirmed(Role.REQUESTOR)
    assert mine.proposed_signature is not None
    for signer, at in ((STRANGER, NOW), (REQUESTOR, NOW), (PROVIDER, NOW + 1)):
        signature = signer.sign(approval_digest(ID, mine.proposed_signature, at))
        with pytest.raises(Forbidden, match="approval"):
            learn(mine, AgreementStatus(S.APPROVING, NOW, signature), NOW, REQUESTOR)
    with pytest.raises(BadRequest, match="lacks"):
        learn(mine, AgreementStatus(S.APPROVING), NOW, REQUESTOR)


def test_a_forged_commitment_binds_nobody() -> None:
    mine = approve(confirmed(Role.PROVIDER))
    assert mine.approved_signature is not None
    for signer in (STRANGER, PROVIDER):
        committed = signer.sign(commitment_digest(ID, mine.approved_signature))
        with pytest.raises(Forbidden, match="commitment"):
            learn(mine, AgreementStatus(S.APPROVED, committed_signature=committed), NOW, PROVIDER)
    assert learn(mine, AgreementStatus(S.APPROVED), NOW, PROVIDER) == []


@pytest.mark.parametrize(
    ("role", "state", "end"),
    [
        (Role.PROVIDER, S.CANCELLED, ended(Step.CANCEL, Role.REQUESTOR, STRANGER)),
        (Role.PROVIDER, S.CANCELLED, ended(Step.TERMINATE, Role.REQUESTOR)),
        (Role.REQUESTOR, S.REJECTED, ended(Step.REJECT, Role.PROVIDER, REQUESTOR)),
        (Role.REQUESTOR, S.TERMINATED, ended(Step.TERMINATE, Role.PROVIDER, STRANGER)),
        (Role.REQUESTOR, S.REJECTED, msgspec.structs.replace(ended(Step.REJECT, Role.PROVIDER), reason=None)),
        (Role.REQUESTOR, S.REJECTED, msgspec.structs.replace(ended(Step.REJECT, Role.PROVIDER), at_ns=1)),
    ],
)
def test_a_forged_end_ends_nothing(role: Role, state: AgreementState, end: AgreementEnd) -> None:
    mine = in_state(role, S.APPROVED if state is S.TERMINATED else S.PENDING)
    with pytest.raises(Forbidden):
        learn(mine, AgreementStatus(state, ended=end), NOW, REQUESTOR)


def test_a_side_cannot_end_what_is_the_others_to_end() -> None:
    rejected = AgreementStatus(S.REJECTED, ended=ended(Step.REJECT, Role.REQUESTOR))
    with pytest.raises(BadRequest, match="not Rejected by the Requestor"):
        learn(confirmed(Role.PROVIDER), rejected, NOW, PROVIDER)
    with pytest.raises(BadRequest, match="lacks"):
        learn(confirmed(Role.REQUESTOR), AgreementStatus(S.REJECTED), NOW, REQUESTOR)


# --- two copies, any course -----------------------------------------------------------------------------------

ACTIONS = (
    "confirm", "approve", "reject", "cancel", "terminate R", "terminate P", "R hears", "P hears", "R hears old",
    "P hears old", "wait", "wait long", "expire R", "expire P",
)  # fmt: skip


@dataclasses.dataclass
class World:
    """Two copies, all that each ever said, and the time."""

    requestor: Agreement = dataclasses.field(default_factory=lambda: proposed(Role.REQUESTOR))
    provider: Agreement | None = None
    said_by_r: list[AgreementStatus] = dataclasses.field(default_factory=list)
    said_by_p: list[AgreementStatus] = dataclasses.field(default_factory=list)
    now: int = NOW
    told: list[tuple[Role, AgreementState]] = dataclasses.field(default_factory=list)

    def act(self, action: str, choice: int) -> None:
        with contextlib.suppress(Conflict, WrongState):
            self._act(action, choice)
        self.said_by_r.append(self.requestor.status())
        if self.provider:
            self.said_by_p.append(self.provider.status())

    def _act(self, action: str, choice: int) -> None:
        match action:
            case "confirm":
                signature = REQUESTOR.sign(terms_digest(TERMS))
                self._set_r(advance(self.requestor, Step.CONFIRM, proposed_signature=signature))
            case "cancel":
                self._end(Role.REQUESTOR, Step.CANCEL)
            case "terminate R":
                self._end(Role.REQUESTOR, Step.TERMINATE)
            case "terminate P":
                self._end(Role.PROVIDER, Step.TERMINATE)
            case "reject":
                self._end(Role.PROVIDER, Step.REJECT)
            case "approve" if self.provider:
                self._set_p(approve(self.provider, self.now))
            case "wait":
                self.now += 100 * SECOND
            case "wait long":
                self.now += 400 * SECOND
            case "expire R":
                self._set_r(core.expired(self.requestor, self.now) or self.requestor)
            case "expire P" if self.provider:
                self._set_p(core.expired(self.provider, self.now) or self.provider)
            case "R hears" | "R hears old" if self.said_by_p:
                at = -1 if action == "R hears" else choice % len(self.said_by_p)
                self.r_hears(self.said_by_p[at])
            case "P hears" | "P hears old" if self.said_by_r:
                self.p_hears(self.said_by_r[-1 if action == "P hears" else choice % len(self.said_by_r)])

    def r_hears(self, status: AgreementStatus) -> bool:
        steps = learn(self.requestor, status, self.now, REQUESTOR)
        for step in steps:
            self._set_r(step)
        return bool(steps)

    def p_hears(self, status: AgreementStatus) -> bool:
        if self.provider is None:
            if status.state is S.PENDING and self.now < TERMS.valid_to_ns:
                self._set_p(confirmed(Role.PROVIDER))
            return self.provider is not None
        steps = learn(self.provider, status, self.now, PROVIDER)
        for step in steps:
            self._set_p(step)
        return bool(steps)

    def _end(self, role: Role, step: Step) -> None:
        mine = self.requestor if role is Role.REQUESTOR else self.provider
        if mine is not None:
            key = REQUESTOR if role is Role.REQUESTOR else PROVIDER
            changed = advance(mine, step, end=signed_end(mine, step, None, self.now, key))
            (self._set_r if role is Role.REQUESTOR else self._set_p)(changed)

    def _set_r(self, agreement: Agreement) -> None:
        if agreement.state is not self.requestor.state:
            self.told.append((Role.REQUESTOR, agreement.state))
        self.requestor = agreement

    def _set_p(self, agreement: Agreement) -> None:
        if self.provider is None or agreement.state is not self.provider.state:
            self.told.append((Role.PROVIDER, agreement.state))
        self.provider = agreement

    def settle(self) -> None:
        """Let the two meet again, and let time pass."""
        for _ in range(3):
            while True:
                news = self.provider is not None and self.r_hears(self.provider.status())
                if not self.p_hears(self.requestor.status()) and not news:
                    break
            self.now += 1000 * SECOND
            self._set_r(core.expired(self.requestor, self.now) or self.requestor)
            if self.provider:
                self._set_p(core.expired(self.provider, self.now) or self.provider)


@settings(max_examples=600, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 1000)), max_size=14))
def test_whatever_happens_and_whatever_is_lost_the_two_come_to_the_same(
    course: list[tuple[str, int]],
) -> None:
    world = World()
    for action, choice in [("confirm", 0), ("P hears", 0), *course]:
        world.act(action, choice)
    world.settle()
    assert world.provider is not None
    assert world.requestor.state is world.provider.state
    assert world.requestor.state in core.FINAL | {S.APPROVED}
    approvals = [role for role, state in world.told if state is S.APPROVED]
    assert len(approvals) == len(set(approvals)), "approved twice"
    # Nobody is bound alone: what one side was told is approved, the other was or could prove.
    if Role.PROVIDER in approvals:
        assert Role.REQUESTOR in approvals
    if Role.REQUESTOR in approvals:
        assert world.requestor.state in (S.APPROVED, S.TERMINATED)
        assert world.requestor.committed_signature is not None


@pytest.mark.parametrize(
    ("course", "state"),
    [
        # approve and cancel cross: whoever the requestor hears first
        (["approve", "cancel", "R hears"], S.CANCELLED),
        (["approve", "R hears", "cancel"], S.APPROVED),
        # reject and cancel at once
        (["reject", "cancel"], S.CANCELLED),
        (["reject", "R hears", "cancel"], S.REJECTED),
        # the commitment is lost, and the requestor goes on
        (["approve", "R hears", "terminate R"], S.TERMINATED),
        # both terminate at once
        (["approve", "R hears", "P hears", "terminate R", "terminate P"], S.TERMINATED),
        # the approval is lost until its time is over
        (["approve", "wait long", "wait long", "expire R"], S.EXPIRED),
        # the commitment is lost until the provider gives up
        (["approve", "R hears", "wait long", "wait long", "expire P"], S.TERMINATED),
        # cancelled, and the provider never heard of it before it expired
        (["cancel", "wait long", "wait long", "expire P"], S.CANCELLED),
        # an old word changes nothing
        (["approve", "R hears", "P hears", "P hears old"], S.APPROVED),
    ],
)
def test_races(course: list[str], state: AgreementState) -> None:
    world = World()
    for action in ["confirm", "P hears", *course]:
        world.act(action, 0)
    world.settle()
    assert world.provider is not None
    assert (world.requestor.state, world.provider.state) == (state, state)
