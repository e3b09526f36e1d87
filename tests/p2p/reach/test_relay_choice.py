"""Which relays a node keeps."""

from __future__ import annotations

import math
import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from p2p.reach.relay_choice import FIRST_RETRY, WANTED, Candidate, RelayChoice

CHANCE = random.Random(7)


def candidates(*networks: str) -> list[Candidate]:
    return [Candidate(f"p{index}", network) for index, network in enumerate(networks)]


def keep(choice: RelayChoice, now: float = 0.0, life: float = 3600.0) -> None:
    """Ask whoever is to be asked; all grant."""
    for peer in choice.ask(now, CHANCE):
        choice.granted(now, peer, life)


def test_three_in_different_networks_are_kept() -> None:
    choice = RelayChoice()
    choice.know(candidates("n1", "n1", "n1", "n2", "n3"))
    keep(choice)
    assert len(choice.held) == WANTED == 3
    assert {"p3", "p4"} < set(choice.held)
    assert choice.ask(1, CHANCE) == []


def test_one_network_is_better_than_none() -> None:
    choice = RelayChoice()
    choice.know(candidates("n", "n", "n", "n"))
    keep(choice)
    assert len(choice.held) == 3
    assert choice.ask(1, CHANCE) == []


def test_a_relay_in_another_network_takes_the_place_of_one_of_two_that_share_one() -> None:
    choice = RelayChoice()
    choice.know(candidates("n1", "n1", "n1"))
    keep(choice)
    choice.know(candidates("n1", "n1", "n1", "n2"))
    assert choice.ask(1, CHANCE) == ["p3"]
    given_up = choice.granted(1, "p3", 3600)
    assert len(given_up) == 1
    assert len(choice.held) == 3
    assert "p3" in choice.held


def test_a_lost_relay_is_replaced() -> None:
    choice = RelayChoice()
    known = candidates("n1", "n2", "n3", "n4")
    choice.know(known)
    keep(choice)
    lost = choice.held[0]
    assert choice.know([c for c in known if c.peer != lost]) == [lost]
    keep(choice)
    assert len(choice.held) == 3


def test_places_are_refreshed_before_they_expire() -> None:
    choice = RelayChoice(1)
    choice.know(candidates("n"))
    keep(choice, life=100)
    assert choice.ask(59, CHANCE) == []
    assert choice.next_event() == 60
    assert choice.ask(60, CHANCE) == ["p0"]
    assert choice.ask(60, CHANCE) == [], "it is being asked already"
    choice.granted(61, "p0", 100)
    assert choice.next_event() == 121


def test_a_place_that_is_not_refreshed_ends_with_its_time() -> None:
    choice = RelayChoice(1)
    choice.know(candidates("n"))
    keep(choice, life=100)
    assert choice.ask(60, CHANCE) == ["p0"]
    choice.refused(60, "p0", CHANCE)
    assert choice.held == ("p0",)
    choice.ask(100, CHANCE)
    assert choice.held == ()


def test_who_refuses_is_asked_again_later_and_less_and_less_often() -> None:
    choice = RelayChoice(1)
    choice.know(candidates("n"))
    now, waits = 0.0, []
    for _ in range(4):
        assert choice.ask(now, CHANCE) == ["p0"]
        choice.refused(now, "p0", CHANCE)
        waits.append(choice.next_event() - now)
        assert choice.ask(now, CHANCE) == []
        now = choice.next_event()
    assert FIRST_RETRY / 2 <= waits[0] <= FIRST_RETRY * 1.5
    assert waits[3] > waits[0] * 2


def test_one_that_promises_seconds_is_not_kept() -> None:
    choice = RelayChoice(1)
    choice.know(candidates("n"))
    choice.ask(0, CHANCE)
    choice.granted(0, "p0", 5)
    assert choice.held == ()
    assert choice.ask(1, CHANCE) == []


def test_none_are_asked_when_none_are_wanted() -> None:
    choice = RelayChoice(0)
    choice.know(candidates("n1", "n2"))
    assert choice.ask(0, CHANCE) == []
    choice.wanted = 2
    keep(choice)
    assert len(choice.release()) == 2
    assert choice.held == ()
    assert choice.next_event() == math.inf


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3), st.integers(0, 500)), max_size=60),
    st.integers(0, 5),
)
def test_whatever_happens_never_more_than_wanted_and_nobody_is_asked_twice_at_once(
    events: list[tuple[int, int, int]], wanted: int
) -> None:
    choice, now, open_ = RelayChoice(wanted), 0.0, set[str]()
    known = candidates(*(f"n{index % 4}" for index in range(10)))
    for peer, what, later in events:
        now += later
        if what == 0:
            choice.know([c for c in known if c.peer != f"p{peer}"])
        for asked in choice.ask(now, CHANCE):
            assert asked not in open_
            open_.add(asked)
        if open_ and what in (1, 2):
            chosen = sorted(open_)[peer % len(open_)]
            open_.discard(chosen)
            if what == 1:
                choice.granted(now, chosen, 300)
            else:
                choice.refused(now, chosen, CHANCE)
        assert len(choice.held) <= wanted


DEEDS = st.one_of(
    st.tuples(st.just("know"), st.lists(st.sampled_from(["a1", "a2", "b1", "c1", "d1"]), unique=True)),
    st.tuples(st.just("grant"), st.floats(60, 7200)),
    st.tuples(st.just("refuse"), st.none()),
    st.tuples(st.just("wait"), st.floats(0, 5000)),
    st.tuples(st.just("want"), st.integers(0, 3)),
)


@given(st.lists(DEEDS, max_size=40), st.integers())
def test_what_is_due_is_asked_so_that_nobody_looks_again_at_once(
    deeds: list[tuple[str, Any]], seed: int
) -> None:
    choice, chance, now = RelayChoice(), random.Random(seed), 0.0
    asked: list[str] = []
    for deed, how in deeds:
        match deed:
            case "know":
                choice.know([Candidate(name, name[0]) for name in how])
            case "grant" if asked:
                choice.granted(now, asked.pop(0), how)
            case "refuse" if asked:
                choice.refused(now, asked.pop(0), chance)
            case "wait":
                now += how
            case "want":
                choice.wanted = how
                if not how:
                    choice.release()
        asked += choice.ask(now, chance)
        assert choice.next_event() > now
