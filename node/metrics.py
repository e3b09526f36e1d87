"""The node's figures in Prometheus's form, gathered when they are asked for; docs/observability.md has the list.

Nothing is kept here: `node.api.metrics.Sources` says where the counters are, which their owners keep as plain numbers.
Labels come from small fixed sets: never a NodeId, an address, or a word that a peer or a client chose.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, get_args

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from p2p.reach.verdict import State

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from prometheus_client.core import Metric

    from node.api.metrics import Sources
    from p2p.metrics import Calls, HostFigures
    from p2p.overlay import Overlay, PeerInfo
    from p2p.reach.verdict import Verdict

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
        figures = sources.host()
        if figures is not None:
            yield from _host(figures)
        verdict = sources.verdict()
        if verdict is not None:
            yield from _reach(verdict)
        skew = sources.skew()
        if skew is not None:
            yield _single("clock_skew_seconds", "By how much the clock is behind those of the peers.", skew)
        yield from _discovery(sources.known(), sources.directory())
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


def _host(figures: HostFigures) -> Iterator[Metric]:
    yield _single("connections", "Connections there are, handshakes included.", figures.connections)
    yield _single("handshakes", "Inbound handshakes under way.", figures.handshakes)
    yield _single("streams", "Streams that are open.", figures.streams)
    memory = _gauge("receive_memory_bytes", "Of the budget that all sessions share.", ("part",))
    memory.add_metric(("limit",), figures.memory_limit)
    memory.add_metric(("held",), figures.memory_held)
    memory.add_metric(("reserved",), figures.memory_reserved)
    yield memory
    volume = _counter("traffic_bytes", "What streams carried, by class.", ("class", "direction"))
    streams = _counter("streams_opened", "Streams there were, by class.", ("class", "opened_by"))
    for name, traffic in figures.traffic.items():
        volume.add_metric((name, "out"), traffic.sent)
        volume.add_metric((name, "in"), traffic.received)
        streams.add_metric((name, "us"), traffic.opened)
        streams.add_metric((name, "peer"), traffic.accepted)
    yield volume
    yield streams
    dials = _counter("dials", "Attempts to dial an address.", ("outcome",))
    for outcome, count in figures.dials.items():
        dials.add_metric((outcome,), count)
    yield dials


def _reach(verdict: Verdict) -> Iterator[Metric]:
    states = _gauge("reachability", "1 for how this node is reached, 0 for the others.", ("verdict",))
    for state in get_args(State):
        states.add_metric((state,), state == verdict.state)
    yield states
    yield _single("relay_reservations", "Relays that keep a place for this node.", len(verdict.relays))


def _discovery(known: int | None, directory: Mapping[str, int]) -> Iterator[Metric]:
    if known is not None:
        yield _single("known_nodes", "Nodes in the address book.", known)
    if not directory:
        return
    yield _single("directory_nodes", "Nodes in the directory's table.", directory.get("nodes", 0))
    counter = _counter("directory_events", "What the directory did.", ("event",))
    for name, count in directory.items():
        if name != "nodes":
            counter.add_metric((name,), count)
    yield counter


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


def _single(name: str, words: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(PREFIX + name, words, value)


def _gauge(name: str, words: str, labels: Sequence[str] = ()) -> GaugeMetricFamily:
    return GaugeMetricFamily(PREFIX + name, words, labels=labels)


def _counter(name: str, words: str, labels: Sequence[str] = ()) -> CounterMetricFamily:
    return CounterMetricFamily(PREFIX + name, words, labels=labels)
