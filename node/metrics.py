"""The node's figures in Prometheus's form, gathered when they are asked for; docs/observability.md has the list.

Nothing is kept here: `node.api.metrics.Sources` says where the counters are, which their owners keep as plain numbers.
Labels come from small fixed sets: never a NodeId, an address, or a word that a peer or a client chose.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from prometheus_client.core import Metric

    from node.api.metrics import Sources
    from p2p.metrics import Calls
    from p2p.overlay import Overlay, PeerInfo

PREFIX = "golem_p2p_"
QUANTILES = (0.5, 0.9, 1.0)

_GOSSIP_FAULTS = ("bad_frames", "forged", "oversized", "rejected", "early_grafts", "bad_syncs")


def registry_of(sources: Sources) -> CollectorRegistry:
    """Return a registry of a node's figures, and of its process."""
    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    registry.register(_NodeCollector(sources))
    return registry


class _NodeCollector(Collector):
    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def collect(self) -> Iterable[Metric]:
        sources = self._sources
        yield from _peers(sources.overlay)
        yield from _events(sources.events.counts)
        yield from _gossip(sources.gossip())
        yield from _calls("bus_call", ("way", "outcome"), "calls on the bus", sources.bus)
        yield from _calls("rest_request", ("api", "method", "status"), "REST requests", sources.rest)


def _peers(overlay: Overlay) -> Iterator[Metric]:
    gauge = _gauge("peers", "Peers that there is a session with.", ("kind", "direction", "path"))
    for kind, peers in (("node", overlay.peers()), ("guest", overlay.guests())):
        for (direction, path), count in Counter((p.direction, p.path) for p in peers).items():
            gauge.add_metric((kind, direction, path), count)
    yield gauge
    yield _rtts([*overlay.peers(), *overlay.guests()])


def _rtts(peers: Sequence[PeerInfo]) -> Metric:
    gauge = _gauge("peer_rtt_seconds", "Round trips to the peers of now, by quantile.", ("quantile",))
    known = sorted(peer.rtt for peer in peers if peer.rtt is not None)
    for quantile in QUANTILES if known else ():
        gauge.add_metric((f"{quantile:g}",), known[min(len(known) - 1, int(quantile * len(known)))])
    return gauge


def _events(counts: Mapping[tuple[str, str], int]) -> Iterator[Metric]:
    """Yield counters of events: those with names of their own, then all of them."""
    for kind, name, label, words in (
        ("peer-dropped", "admissions_refused", "reason", "Peers that were proven and not admitted."),
        ("handshake-failed", "handshake_failures", "reason", "Connections that came in and made no session."),
    ):
        counter = _counter(name, words, (label,))
        for (found, code), count in counts.items():
            if found == kind:
                counter.add_metric((code,), count)
        yield counter
    counter = _counter("network_events", "What happened on the network.", ("event", "code"))
    for labels, count in counts.items():
        counter.add_metric(labels, count)
    yield counter


def _gossip(counters: Mapping[str, int]) -> Iterator[Metric]:
    faults = _counter("gossip_faults", "What peers did wrong in gossip.", ("fault",))
    others = _counter("gossip_events", "What gossip and sync did.", ("event",))
    for name in _GOSSIP_FAULTS:
        faults.add_metric((name,), counters.get(name, 0))
    for name, count in counters.items():
        if name not in _GOSSIP_FAULTS:
            others.add_metric((name,), count)
    yield faults
    yield others


def _calls(name: str, labels: tuple[str, ...], words: str, calls: Calls) -> Iterator[Metric]:
    counter = _counter(f"{name}s", f"Finished {words}.", labels)
    for values, count in calls.outcomes.items():
        counter.add_metric(values, count)
    yield counter
    seconds = HistogramMetricFamily(
        f"{PREFIX}{name}_seconds", f"How long {words} took, waiting included.", labels=labels[:1]
    )
    for first, histogram in calls.seconds.items():
        buckets = [("+Inf" if b == float("inf") else f"{b:g}", count) for b, count in histogram.cumulative()]
        seconds.add_metric((first,), buckets, histogram.sum)
    yield seconds


def _gauge(name: str, words: str, labels: Sequence[str] = ()) -> GaugeMetricFamily:
    return GaugeMetricFamily(PREFIX + name, words, labels=labels)


def _counter(name: str, words: str, labels: Sequence[str] = ()) -> CounterMetricFamily:
    return CounterMetricFamily(PREFIX + name, words, labels=labels)
