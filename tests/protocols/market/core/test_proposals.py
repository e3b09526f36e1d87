"""The state machine of proposals: who may do what with which, and that chains stay chains."""

from __future__ import annotations

import pytest

from protocols.market import ids
from protocols.market.core import proposals as core
from protocols.market.core.proposals import Negotiation, Negotiations, Record, accept
from protocols.market.errors import BadRequest, Conflict, Gone, LimitReached, NotFound, NotMatching
from protocols.market.language import PropertySet
from protocols.market.messages import Role

R, P = Role.REQUESTOR, Role.PROVIDER
OFFER = PropertySet.from_json({"mem": 4, "name": "vm"})
DEMAND = PropertySet.from_json({"until": 10})
OFFER_FILTER, DEMAND_FILTER = "(until>5)", "(mem>=2)"


def negotiation(role: Role, peer: str = "peer", demand: str = "demand", end: int = 100) -> Negotiation:
    return Negotiation(role, "me", peer, "offer", demand, end)


def begin(book: Negotiations, role: Role = R, number: int = 0, peer: str = "peer") -> Record:
    initial = ids.initial_hash("offer", f"demand{number}", b"", number)
    return book.begin(negotiation(role, peer), initial, OFFER, OFFER_FILTER, number)


def answer(book: Negotiations, prev: Record, by: Role, at: int = 1) -> Record:
    content = (DEMAND, DEMAND_FILTER) if by is R else (OFFER, OFFER_FILTER)
    return book.counter(prev, by, *content, at)


def test_a_chain_is_the_same_on_both_nodes() -> None:
    ours, theirs = Negotiations(), Negotiations()
    mine, its = begin(ours, R), begin(theirs, P)
    assert (mine.id, its.id) == (f"R-{mine.hash}", f"P-{mine.hash}")
    for by in (R, P, R, P):
        mine, its = answer(ours, mine, by), answer(theirs, its, by)
        assert mine.hash == its.hash
        assert mine.state == its.state == "Draft"
        assert (mine.ours, its.ours) == (by is R, by is P)
    assert mine.view().prev_proposal_id == f"R-{mine.prev.hash}" if mine.prev else None


def test_nobody_reacts_to_their_own() -> None:
    book = Negotiations()
    draft = answer(book, begin(book), R)
    for react in (lambda: answer(book, draft, R), lambda: book.reject(draft, R, None)):
        with pytest.raises(BadRequest, match="Can't react to own Proposal"):
            react()


def test_a_proposal_is_countered_once() -> None:
    book = Negotiations()
    initial = begin(book)
    answer(book, initial, R)
    with pytest.raises(Gone, match="already has counter proposal"):
        answer(book, initial, R, at=2)


def test_what_was_withdrawn_can_be_countered_anew() -> None:
    book = Negotiations()
    initial = begin(book)
    book.withdraw(answer(book, initial, R))
    assert len(book) == 1
    answer(book, initial, R, at=2)


@pytest.mark.parametrize(
    ("properties", "constraints", "says"),
    [
        ({"until": 1}, DEMAND_FILTER, r"Offer: \[\], Demand: \[\]"),
        ({}, DEMAND_FILTER, r'Offer: \[\], Demand: \["until"\]'),
        ({"until": 10}, "(disk>1)", r'Offer: \["disk"\], Demand: \[\]'),
        ({"until": 10}, "(mem>=2", "Error: "),
    ],
)
def test_content_must_match_what_it_answers(
    properties: dict[str, object], constraints: str, says: str
) -> None:
    book = Negotiations()
    initial = begin(book)
    with pytest.raises(NotMatching, match=says):
        book.counter(initial, R, PropertySet.from_json(properties), constraints, 1)
    assert initial.counter is None
    assert len(book) == 1


def test_rejecting_and_taking_up_again() -> None:
    book = Negotiations()
    initial = begin(book)
    assert book.reject(initial, R, "a")
    assert not book.reject(initial, R, "a")
    assert book.reject(initial, R, "b")
    assert initial.view().state == "Rejected"
    draft = answer(book, initial, R)
    assert initial.view().state == "Initial"
    book.reject(draft, P, None)
    answer(book, draft, P)
    assert draft.state == "Draft"


def test_an_agreement_needs_the_providers_draft() -> None:
    book = Negotiations()
    initial = begin(book)
    with pytest.raises(BadRequest, match="No negotiation with Provider"):
        accept(initial)
    own = answer(book, initial, R)
    with pytest.raises(BadRequest, match="own Proposal"):
        accept(own)
    draft = answer(book, own, P)
    book.reject(draft, R, None)
    with pytest.raises(BadRequest, match="rejected Proposal"):
        accept(draft)
    draft.state = "Draft"
    assert accept(draft) is own
    with pytest.raises(Conflict, match="second Agreement"):
        accept(draft)
    with pytest.raises(Conflict):
        book.reject(draft, R, None)
    answer(book, draft, R)  # countering an accepted draft is allowed
    with pytest.raises(Conflict):
        accept(draft)


def test_a_countered_draft_is_not_agreed_to() -> None:
    book = Negotiations()
    draft = answer(book, answer(book, begin(book), R), P)
    answer(book, draft, R, at=5)
    with pytest.raises(BadRequest, match="counter proposal already"):
        accept(draft)


def test_a_proposal_shows_itself_to_its_parties_only() -> None:
    book = Negotiations()
    draft = answer(book, begin(book), R)
    assert book.of_subscription("me", "demand", draft.id) is draft
    for owner, subscription, which in (
        ("you", "demand", draft.id),
        ("me", "offer", draft.id),
        ("me", "demand", f"P-{draft.hash}"),
    ):
        with pytest.raises(NotFound):
            book.of_subscription(owner, subscription, which)


def test_chains_end() -> None:
    book = Negotiations()
    record = begin(book)
    for number in range(core.MAX_ROUNDS):
        record = answer(book, record, R if number % 2 == 0 else P, at=number)
    with pytest.raises(Gone, match="ends a chain"):
        answer(book, record, R, at=1000)


def test_a_peer_has_so_many_negotiations_going_on() -> None:
    book = Negotiations()
    records = [begin(book, P, number) for number in range(core.MAX_OPEN_PER_PAIR)]
    with pytest.raises(LimitReached):
        begin(book, P, 1000)
    begin(book, P, 1001, peer="another")
    book.reject(answer(book, records[0], R), P, None)
    begin(book, P, 1002)


def test_ended_negotiations_are_forgotten_oldest_first() -> None:
    book = Negotiations()
    first = begin(book, P, 0)
    for number in range(core.MAX_KEPT_PER_PAIR + 1):
        record = first if number == 0 else begin(book, P, number)
        book.reject(answer(book, record, R), P, None)
    begin(book, P, 5000)
    assert book.find(P, first.hash) is None
    assert len(book) == 2 * (core.MAX_KEPT_PER_PAIR - 1) + 1


def test_time_ends_negotiations() -> None:
    book = Negotiations()
    for role in Role:
        answer(book, begin(book, role), R)
    assert book.expire(99) == 100
    assert book.expire(100) is None
    assert len(book) == 0
    assert book._pairs == {}
    assert book._chains == {}
