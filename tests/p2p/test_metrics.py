"""Plain counters."""

from __future__ import annotations

import random

from p2p.metrics import LATENCY_BOUNDS, Calls, Histogram


def test_a_histogram_counts_what_is_at_most_each_bound() -> None:
    chance = random.Random(5)
    values = [chance.expovariate(1.0) * chance.choice((0.001, 0.1, 20)) for _ in range(500)]
    values += [LATENCY_BOUNDS[0], LATENCY_BOUNDS[-1], 0.0]  # a bound belongs to its own bucket
    histogram = Histogram()
    for value in values:
        histogram.observe(value)
    assert histogram.cumulative() == [
        (bound, sum(value <= bound for value in values)) for bound in (*LATENCY_BOUNDS, float("inf"))
    ]
    assert abs(histogram.sum - sum(values)) < 1e-6


def test_calls_are_counted_by_all_labels_and_timed_by_the_first() -> None:
    calls = Calls()
    calls.ended(0.5, "in", "ok")
    calls.ended(0.25, "in", "busy")
    calls.ended(1.0, "out", "ok")
    assert calls.outcomes == {("in", "ok"): 1, ("in", "busy"): 1, ("out", "ok"): 1}
    assert {first: h.sum for first, h in calls.seconds.items()} == {"in": 0.75, "out": 1.0}
