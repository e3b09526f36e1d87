"""REST, the node's figures for Prometheus: `/metrics`, and where the Golem daemon has them.

Without an application key, as there: figures name nobody, and a scraper has no key. Our names are ours; those of
the daemon's own figures are not imitated.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from starlette.responses import Response

from node.api.web import Routes, text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from prometheus_client import CollectorRegistry

    from node.api.web import ApiRequest
    from p2p.events import EventLog
    from p2p.metrics import Calls, HostFigures
    from p2p.overlay import Overlay
    from p2p.reach.verdict import Verdict


@dataclasses.dataclass(frozen=True)
class Sources:
    """Where a node's figures are."""

    overlay: Overlay
    events: EventLog
    gossip: Callable[[], Mapping[str, int]]
    rest: Calls
    bus: Calls
    host: Callable[[], HostFigures | None] = lambda: None
    """None until libp2p is loaded."""
    verdict: Callable[[], Verdict | None] = lambda: None
    """How others reach the node; None where that is not looked into."""
    known: Callable[[], int | None] = lambda: None
    """Nodes in the address book."""
    skew: Callable[[], float | None] = lambda: None
    """Seconds by which the node's clock is behind its peers'."""
    directory: Callable[[], Mapping[str, int]] = dict
    """Counters of the directory and of its table: `nodes` is the table's size, all else are totals."""


def routes(sources: Sources) -> Routes:
    """Return the family's table. The registry is made, and its library loaded, when first asked for."""
    registry: CollectorRegistry | None = None

    def exposition() -> str:
        import prometheus_client

        from node.metrics import registry_of

        nonlocal registry
        if registry is None:
            registry = registry_of(sources)
        return prometheus_client.generate_latest(registry).decode()

    table = Routes("identity", "")
    handlers = _Metrics(exposition)
    table.add("GET", "/metrics", handlers.ours)
    table.add("GET", "/metrics-api/v1/expose", handlers.expose)
    table.add("GET", "/metrics-api/v1/sorted", handlers.in_order)
    table.add("GET", "/metrics-api/v1/filtered", handlers.expose)
    table.add("GET", "/metrics-api/v1/filtered/{prefixes}", handlers.filtered)
    return table


class _Metrics:
    def __init__(self, exposition: Callable[[], str]) -> None:
        self._exposition = exposition

    async def ours(self, request: ApiRequest) -> Response:
        return Response(self._exposition(), media_type="text/plain; version=0.0.4")

    async def expose(self, request: ApiRequest) -> Response:
        return text(200, self._exposition())

    async def in_order(self, request: ApiRequest) -> Response:
        lines = self._exposition().splitlines()
        return text(200, "".join(f"{line}\n" for line in sorted(lines) if not line.startswith("#")))

    async def filtered(self, request: ApiRequest) -> Response:
        prefixes = tuple(p for p in request.path["prefixes"].split(",") if p)
        lines = self._exposition().splitlines()
        kept = [
            line
            for line in lines
            if line.removeprefix("# HELP ").removeprefix("# TYPE ").startswith(prefixes)
        ]
        return text(200, "".join(f"{line}\n" for line in kept))
