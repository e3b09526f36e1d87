"""Several addresses of one peer: in which order they are tried, when the next begins, and who wins."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from p2p.host.race import MAX_RUNNING, STAGGER, Race, Target, in_order, run
from p2p.host.tcp import Place
from p2p.overlay import PeerUnreachable

if TYPE_CHECKING:
    from trio.testing import MockClock


def target(host: str, port: int = 1) -> Target:
    if host == "relay":
        return Target(f"/relay/{port}/p2p-circuit", None)
    place = Place(host, port)
    return Target(str(place), place)


def test_a_quarter_of_a_second_or_a_failure_starts_the_next() -> None:
    race = Race("abc")
    assert race.start(10.0) == "a"
    assert race.start(10.0) is None
    assert race.next_event() == 10.0 + STAGGER
    assert race.start(10.0 + STAGGER) == "b"
    assert race.start(10.0 + STAGGER) is None
    race.failed("a", "refused")
    assert race.next_event() == -math.inf
    assert race.start(10.3) == "c"
    assert race.next_event() == math.inf
    race.failed("b", "gone")
    assert not race.lost
    race.failed("c", "silent")
    assert race.lost
    assert race.failures == [("a", "refused"), ("b", "gone"), ("c", "silent")]


def test_not_all_at_once() -> None:
    race = Race(range(20))
    now, started = 0.0, 0
    while race.next_event() < math.inf:
        now = max(now, race.next_event())
        started += race.start(now) is not None
    assert started == MAX_RUNNING


def test_families_take_turns_and_relays_come_last() -> None:
    given_order = [
        target("relay"),
        target("192.0.2.1"),
        target("192.0.2.2"),
        target("2001:db8::1"),
        target("192.0.2.1"),
        target("2001:db8::2"),
    ]
    found = [t.place.host if t.place else "relay" for t in in_order(given_order)]
    assert found == ["192.0.2.1", "2001:db8::1", "192.0.2.2", "2001:db8::2", "relay"]


HOSTS = st.sampled_from(["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1", "2001:db8::2", "relay"])


@given(st.lists(HOSTS))
def test_each_is_tried_once_and_direct_ones_before_relays(hosts: list[str]) -> None:
    ordered = in_order([target(host) for host in hosts])
    assert {t.address for t in ordered} == {target(host).address for host in hosts}
    assert len(ordered) == len(set(hosts))
    relayed = [t.place is None for t in ordered]
    assert relayed == sorted(relayed)


async def test_the_first_to_answer_wins_and_the_others_are_given_up(autojump_clock: MockClock) -> None:
    takes = {"slow": 5.0, "quick": 0.1, "never begun": 0.0}
    began: dict[str, float] = {}
    given_up: list[str] = []

    async def attempt(name: str) -> str:
        began[name] = trio.current_time() - start
        try:
            await trio.sleep(takes[name])
        except trio.Cancelled:
            given_up.append(name)
            raise
        return name.upper()

    start = trio.current_time()
    assert await run(Race(takes), attempt, lambda _: None) == ("quick", "QUICK")
    assert began == {"slow": 0.0, "quick": STAGGER}
    assert given_up == ["slow"]
    assert trio.current_time() - start == pytest.approx(STAGGER + 0.1)


async def test_success_waits_for_nothing_and_failure_for_nobody(autojump_clock: MockClock) -> None:
    async def attempt(number: int) -> int:
        if number < 5:
            raise OSError(f"number {number} is refused")
        return number

    start = trio.current_time()
    race = Race(range(10))
    assert await run(race, attempt, lambda _: None) == (5, 5)
    assert trio.current_time() == start
    assert race.failures[0] == (0, "number 0 is refused")


async def test_when_all_fail_each_has_a_reason(autojump_clock: MockClock) -> None:
    async def attempt(name: str) -> None:
        if name == "late":
            with trio.fail_after(1):
                await trio.sleep_forever()
        if name == "wrong":
            raise PeerUnreachable("somebody else is there")
        raise ZeroDivisionError

    race = Race(["late", "wrong", "broken"])
    assert await run(race, attempt, lambda _: None) is None
    assert dict(race.failures) == {
        "wrong": "somebody else is there",
        "broken": "ZeroDivisionError()",
        "late": "nobody answered in time",
    }


async def test_what_is_not_wanted_is_dropped(autojump_clock: MockClock) -> None:
    dropped: list[int] = []

    async def stubborn(number: int) -> int:
        with trio.CancelScope(shield=True):
            await trio.sleep(1 - number / 10)
        return number

    assert await run(Race([0, 1]), stubborn, dropped.append) == (0, 0)
    assert dropped == [1]

    dropped.clear()
    with trio.move_on_after(0.5) as scope:
        await run(Race([0]), stubborn, dropped.append)
    assert scope.cancelled_caught
    assert dropped == [0]
