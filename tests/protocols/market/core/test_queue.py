"""Events are given out once, in their order, and come back if they were not delivered."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.market.core import queue as module
from protocols.market.core.limits import RateLimit
from protocols.market.core.queue import EventQueue
from protocols.market.errors import LimitReached
from protocols.market.events import NegotiationEvent, Proposal, ProposalArrived, ProposalRejected


def proposal(number: int) -> ProposalArrived:
    return ProposalArrived(number, Proposal(f"R-{number}", None, "p", "Initial", "{}", "()", 0))


def rejection(number: int) -> ProposalRejected:
    return ProposalRejected(number, f"R-{number}", None)


def take(queue: EventQueue, limit: int, worth: Any = lambda _: True) -> Any:
    return queue.take(limit, random.Random(1), worth)


def test_news_come_before_proposals() -> None:
    queue = EventQueue()
    for event in (proposal(1), rejection(2), proposal(3), rejection(4)):
        assert queue.put(event)
    batch = take(queue, 3)
    assert [event.at_ns for event in batch.events[:2]] == [2, 4]
    assert batch.events[2].at_ns in (1, 3)
    assert take(queue, 10).events[0].at_ns in (1, 3)
    assert take(queue, 10) is None


def test_what_was_not_delivered_comes_again_in_its_order() -> None:
    queue = EventQueue()
    for number in range(4):
        queue.put(rejection(number))
    first, second = take(queue, 2), take(queue, 1)
    queue.put_back(second)
    queue.put_back(first)
    assert [event.at_ns for event in take(queue, 10).events] == [0, 1, 2, 3]


def test_a_batch_is_settled_once() -> None:
    queue = EventQueue()
    queue.put(rejection(1))
    batch = take(queue, 1)
    queue.confirm(batch)
    queue.put_back(batch)
    assert take(queue, 1) is None
    queue.put(rejection(2))
    batch = take(queue, 1)
    queue.put_back(batch)
    queue.put_back(batch)
    assert len(take(queue, 10).events) == 1


def test_what_is_not_worth_telling_is_dropped() -> None:
    queue = EventQueue()
    for number in range(10):
        queue.put(proposal(number))
    batch = take(queue, 10, lambda event: event.at_ns % 2)
    assert sorted(event.at_ns for event in batch.events) == [1, 3, 5, 7, 9]
    assert take(queue, 10) is None


def test_proposals_come_in_any_order() -> None:
    queue = EventQueue()
    for number in range(30):
        queue.put(proposal(number))
    assert [event.at_ns for event in take(queue, 30).events] != list(range(30))


def test_a_full_queue_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PROPOSALS", 1)
    monkeypatch.setattr(module, "MAX_NEWS", 1)
    queue = EventQueue()
    assert queue.put(proposal(1))
    assert not queue.put(proposal(2))
    assert not queue.has_room
    assert queue.put(rejection(1))
    assert not queue.put(rejection(2))


@given(st.lists(st.sampled_from(["news", "proposal", "take", "confirm", "put back"]), max_size=60))
def test_nothing_is_lost_and_nothing_given_twice(steps: list[str]) -> None:
    queue, put, confirmed = EventQueue(), set[int](), set[int]()
    out: list[Any] = []
    for number, step in enumerate(steps):
        if step == "news":
            queue.put(rejection(number))
            put.add(number)
        elif step == "proposal":
            queue.put(proposal(number))
            put.add(number)
        elif step == "take" and (batch := take(queue, 3)):
            out.append(batch)
        elif step == "confirm" and out:
            batch = out.pop()
            queue.confirm(batch)
            new = {event.at_ns for event in batch.events}
            assert not new & confirmed
            confirmed |= new
        elif step == "put back" and out:
            queue.put_back(out.pop(0))
    for batch in out:
        queue.put_back(batch)
    left: list[NegotiationEvent] = list(batch.events) if (batch := take(queue, 1000)) else []
    assert {event.at_ns for event in left} == put - confirmed


def test_a_peer_may_ask_so_often() -> None:
    limit = RateLimit(per_second=2, burst=3)
    for _ in range(3):
        limit.spend("a", 0.0, "questions")
    with pytest.raises(LimitReached, match="at most 2 a second"):
        limit.spend("a", 0.0, "questions")
    limit.spend("b", 0.0, "questions")
    limit.spend("a", 0.5, "questions")
    with pytest.raises(LimitReached):
        limit.spend("a", 0.5, "questions")


def test_so_many_peers_are_remembered() -> None:
    limit = RateLimit(per_second=1, burst=1, peers=2)
    for peer in "abc":
        limit.spend(peer, 0.0, "questions")
    limit.spend("a", 0.0, "questions")
    with pytest.raises(LimitReached):
        limit.spend("c", 0.0, "questions")
