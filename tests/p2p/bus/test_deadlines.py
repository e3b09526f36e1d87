"""Deadlines come due in order, those that are over do not, and what is kept of these is bounded."""

from __future__ import annotations

import math
import random

from p2p.bus.deadlines import Deadlines


def test_in_order_and_only_what_runs() -> None:
    running = {1, 2, 3}
    deadlines = Deadlines(running)
    assert deadlines.next == math.inf
    assert deadlines.add(5.0, 1)
    assert not deadlines.add(7.0, 2)
    assert deadlines.add(3.0, 3)
    assert deadlines.next == 3.0
    assert list(deadlines.due(2.9)) == []
    running.discard(1)
    assert list(deadlines.due(7.0)) == [3, 2]
    assert deadlines.next == math.inf


def test_a_call_that_ends_while_others_are_told_is_not() -> None:
    running = {1, 2}
    deadlines = Deadlines(running)
    deadlines.add(1.0, 1)
    deadlines.add(1.0, 2)
    seen = []
    for key in deadlines.due(1.0):
        seen.append(key)
        running.clear()
    assert len(seen) == 1


def test_what_is_over_does_not_pile_up() -> None:
    running: set[int] = set()
    deadlines = Deadlines(running)
    chance = random.Random(1)
    largest = 0
    for key in range(20_000):
        running.add(key)
        deadlines.add(chance.uniform(30, 31), key)
        if len(running) > 50:
            running.discard(chance.choice(sorted(running)))
        largest = max(largest, len(deadlines))
    assert largest < 300
    assert sorted(deadlines.due(31)) == sorted(running)
