"""The link model by itself: when what is sent arrives, and between whom nothing does."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from p2p.identity import NodeId
from p2p.testing.network.links import MIN_RETRANSMISSION, Direction, Link, Links

A, B, C, D = (NodeId("0x" + digit * 40) for digit in "abcd")


def direction(seed: int = 1, **link: float) -> Direction:
    return Direction(Link(**link), random.Random(seed))


def arrivals(way: Direction, times: list[float], size: int = 1000) -> list[float]:
    found = [way.arrival(now, size) for now in times]
    assert None not in found
    return [when for when in found if when is not None]


def test_latency_alone() -> None:
    assert arrivals(direction(latency=0.05), [0.0, 1.0, 1.0]) == [0.05, 1.05, 1.05]


def test_jitter_is_bounded_and_keeps_the_order() -> None:
    times = [n / 1000 for n in range(2000)]
    found = arrivals(direction(latency=0.05, jitter=0.02), times)
    assert found == sorted(found)
    delays = [after - before for before, after in zip(times, found, strict=True)]
    assert 0.05 <= min(delays) < 0.055
    assert 0.065 < max(delays) <= 0.07 + 1e-9


def test_bandwidth_sends_one_after_the_other() -> None:
    way = direction(latency=0.1, bandwidth=1000.0)
    assert arrivals(way, [0.0, 0.0, 0.5], size=500) == pytest.approx([0.6, 1.1, 1.6])
    assert arrivals(way, [10.0], size=500) == pytest.approx([10.6]), "a link that was idle owes nothing"


def test_both_ways_have_the_whole_bandwidth() -> None:
    links = Links(Link(latency=0.0, bandwidth=1000.0), random.Random(1))
    there, back = links.direction(A, B), links.direction(B, A)
    assert there.arrival(0.0, 1000) == back.arrival(0.0, 1000) == 1.0


@pytest.mark.parametrize("latency", [0.01, 0.3])
def test_what_is_lost_comes_a_retransmission_later(latency: float) -> None:
    pause = max(MIN_RETRANSMISSION, 2 * latency)
    way = direction(latency=latency, loss=0.25)
    found = arrivals(way, [n * 100.0 for n in range(4000)])
    tries = [round((when - n * 100.0 - latency) / pause) for n, when in enumerate(found)]
    for n, (when, lost) in enumerate(zip(found, tries, strict=True)):
        assert when == pytest.approx(n * 100.0 + latency + lost * pause)
    shares = [sum(lost >= k for lost in tries) / len(tries) for k in (1, 2, 3)]
    assert shares == pytest.approx([0.25, 0.0625, 0.0156], abs=0.02)


def test_a_lost_segment_holds_up_those_behind_it() -> None:
    way = direction(latency=0.01, loss=0.2)
    found = arrivals(way, [n * 0.001 for n in range(500)])
    assert found == sorted(found)
    assert max(later - earlier for earlier, later in itertools.pairwise(found)) > MIN_RETRANSMISSION / 2


def test_a_link_that_breaks_loses_the_connection_with_a_segment() -> None:
    way = direction(breaks=0.1)
    found = [way.arrival(float(n), 100) for n in range(5000)]
    assert found.count(None) / len(found) == pytest.approx(0.1, abs=0.02)


def test_a_stall_delays_what_is_sent_meanwhile() -> None:
    way = direction(latency=0.1)
    way.stall(5.0)
    way.stall(2.0)
    assert arrivals(way, [1.0, 4.0, 6.0]) == pytest.approx([5.1, 5.1, 6.1])


def test_one_seed_gives_one_history() -> None:
    times = [n / 10 for n in range(200)]
    lossy = {"latency": 0.02, "jitter": 0.03, "loss": 0.1}
    assert arrivals(direction(3, **lossy), times) == arrivals(direction(3, **lossy), times)
    assert arrivals(direction(3, **lossy), times) != arrivals(direction(4, **lossy), times)


def test_links_may_follow_from_who_is_at_their_ends() -> None:
    links = Links(lambda source, _: Link(latency=0.5 if source == A else 0.1), random.Random(1))
    assert links.link(A, B).latency == 0.5
    assert links.link(B, A).latency == 0.1
    links.set(A, B, Link(latency=2.0, bandwidth=math.inf))
    assert links.link(A, B).latency == links.link(B, A).latency == 2.0
    assert links.link(A, C).latency == 0.5


def up(links: Links) -> set[str]:
    pairs = itertools.combinations((A, B, C, D), 2)
    for one, other in itertools.combinations((A, B, C, D), 2):
        assert links.is_up(one, other) == links.is_up(other, one)
    return {one[2] + other[2] for one, other in pairs if links.is_up(one, other)}


def test_partitions_cuts_and_isolation_add_up_and_heal_together() -> None:
    links = Links(Link(), random.Random(1))
    everything = {"ab", "ac", "ad", "bc", "bd", "cd"}
    assert up(links) == everything
    links.cut(A, B)
    assert up(links) == everything - {"ab"}
    links.mend(B, A)
    assert up(links) == everything
    links.partition([A, B])  # those that are not named are together
    assert up(links) == {"ab", "cd"}
    links.partition([A], [B, C])
    assert up(links) == {"bc"}
    links.isolate(B)
    assert up(links) == set()
    links.cut(C, D)
    links.heal()
    assert up(links) == everything


def test_dials_may_be_refused_some_times_or_always() -> None:
    links = Links(Link(), random.Random(1))
    links.refuse_dials(A, 2)
    assert [links.may_dial(A) for _ in range(4)] == [False, False, True, True]
    links.close_inbound(B)
    assert not links.may_dial(B)
    assert links.may_dial(A)
    links.close_inbound(B, closed=False)
    assert links.may_dial(B)
