"""Plain counters."""

from __future__ import annotations

import random

from p2p import ping
from p2p.metrics import LATENCY_BOUNDS, TRAFFIC_CLASSES, Calls, Histogram, TrafficTable, traffic_class


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


def test_every_protocol_has_its_class() -> None:
    for protocol, expected in (
        ("/golem-p2p/devnet/hello/1", "hello"),
        ("/golem-p2p/main/bus/1", "bus"),
        ("/golem-p2p/main/bus/lone/1", "bus"),
        ("/golem-p2p/main/sync/1", "sync"),
        ("/golem-p2p/main/files/1", "files"),
        ("/golem-p2p/main/kad/1.0.0", "directory"),
        ("/golem-p2p/main/of-a-plug-in/1", "other"),
        ("/meshsub/1.2.0", "gossip"),
        ("/libp2p/circuit/relay/0.2.0/hop", "reach"),
        ("/libp2p/dcutr", "reach"),
        ("/ipfs/id/1.0.0", "stock"),
        (ping.PROTOCOL, "stock"),
        ("", "other"),
        ("/golem-p2p/hello", "other"),
        ("hello", "other"),
    ):
        assert traffic_class(protocol) == expected, protocol
        assert TrafficTable().of(protocol) is not TrafficTable().of(protocol)
    table = TrafficTable()
    assert table.of("/meshsub/1.1.0") is table.of("/meshsub/1.2.0")
    assert set(table.by_class) == set(TRAFFIC_CLASSES)
