"""Figures for Prometheus: what a parser of its own reads in them, who may, and that labels stay few."""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
import trio
from prometheus_client.parser import text_string_to_metric_families

from node.api import metrics as metrics_api
from node.api.server import RestServer
from p2p.bus import BusError, net_address
from p2p.events import EventLog, HandshakeFailed, PeerDropped
from p2p.metrics import HostFigures, TrafficTable
from p2p.reach.verdict import UNKNOWN, Relay
from p2p.testing.nodes import memory_nodes
from tests.node.api.client import MarketClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

    from node.api.web import Session
    from p2p.protocol import NodeContext
    from p2p.reach.verdict import Verdict


class Client(MarketClient):
    """Requests without a key to a server that has the figures alone."""

    def __init__(self, here: NodeContext, events: EventLog, **more: Any) -> None:
        async def nobody(key: str) -> Session | None:
            return None

        bus: Any = here.bus
        gossip: Any = here.broadcast
        self.server = RestServer(nobody, structlog.get_logger("rest"))
        self.server.add(
            metrics_api.routes(
                metrics_api.Sources(
                    here.overlay, events, gossip.counters, self.server.requests, bus.calls, **more
                )
            )
        )

    async def figures(self) -> dict[tuple[str, ...], float]:
        """What a scrape finds: (name, label values in the order of their names ...) → value."""
        answer = await self.get("/metrics")
        assert answer.status == 200
        assert answer.content_type == "text/plain; version=0.0.4; charset=utf-8"
        return {
            (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(answer.body.decode())
            for sample in family.samples
        }


@contextlib.asynccontextmanager
async def two() -> AsyncIterator[tuple[Client, EventLog, NodeContext, NodeContext]]:
    async with memory_nodes(2, seed=6) as (here, there):
        events = EventLog(here.clock)
        yield Client(here, events), events, here, there


async def test_what_is_counted(autojump_clock: MockClock) -> None:
    async with two() as (client, events, here, there):
        await trio.sleep(60)
        with contextlib.suppress(BusError):
            await here.bus.call(f"{net_address(there.node_id, 'nothing')}/Ask", b"", timeout=5)
        with contextlib.suppress(BusError):
            await there.bus.call(f"{net_address(here.node_id, 'nothing')}/Ask", b"", timeout=5)
        with contextlib.suppress(BusError):
            await here.bus.call("/local/nothing/Ask", b"")
        events.add(PeerDropped(there.node_id, dialled=True, why="network", reason="elsewhere"))
        events.add(PeerDropped(there.node_id, dialled=True, why="network", reason="elsewhere"))
        events.add(HandshakeFailed("", "protocol", "no Noise"))
        assert (await client.get("/nowhere")).status == 401
        found = await client.figures()
        for name, value in {
            ("golem_p2p_peers", "out", "node", "direct"): 1,
            ("golem_p2p_admissions_refused_total", "network"): 2,
            ("golem_p2p_handshake_failures_total", "protocol"): 1,
            ("golem_p2p_network_events_total", "network", "peer-dropped"): 2,
            ("golem_p2p_bus_calls_total", "no-endpoint", "out"): 1,
            ("golem_p2p_bus_calls_total", "no-endpoint", "in"): 1,
            ("golem_p2p_bus_calls_total", "no-endpoint", "local"): 1,
            ("golem_p2p_rest_requests_total", "none", "GET", "401"): 1,
            ("golem_p2p_gossip_faults_total", "forged"): 0,
        }.items():
            assert found[name] == value, (name, sorted(found))
        assert found["golem_p2p_bus_call_seconds_count", "out"] == 1
        assert 0.04 <= found["golem_p2p_bus_call_seconds_sum", "out"] < 1, "a round trip takes 40 ms"
        assert "python_info" in {name for name, *_ in found}
        again = await client.figures()
        assert again["golem_p2p_rest_requests_total", "/", "GET", "200"] == 1, "the scrape before"


async def test_what_the_host_and_reach_and_the_directory_say(autojump_clock: MockClock) -> None:
    async with memory_nodes(1, seed=6) as (here,):
        traffic = TrafficTable()
        traffic.by_class["bus"].sent, traffic.by_class["bus"].accepted = 77, 3
        host: HostFigures | None = None
        verdict: Verdict | None = None
        more = {
            "host": lambda: host,
            "verdict": lambda: verdict,
            "known": lambda: 12,
            "skew": lambda: -1.5,
            "directory": lambda: {"nodes": 5, "lookups": 9},
        }
        client = Client(here, EventLog(here.clock), **more)
        assert ("golem_p2p_connections",) not in await client.figures(), "not yet"
        host = HostFigures(9, 1, 20, 1000, 100, 200, traffic.by_class, Counter(ok=4, refused=2))
        relay = Relay(here.node_id, ("/ip4/192.0.2.1/tcp/1/p2p/x/p2p-circuit",), 0)
        verdict = msgspec.structs.replace(UNKNOWN, state="relayed", relays=(relay,))
        found = await client.figures()
        for name, value in {
            ("golem_p2p_connections",): 9,
            ("golem_p2p_handshakes",): 1,
            ("golem_p2p_streams",): 20,
            ("golem_p2p_receive_memory_bytes", "limit"): 1000,
            ("golem_p2p_receive_memory_bytes", "held"): 100,
            ("golem_p2p_receive_memory_bytes", "reserved"): 200,
            ("golem_p2p_traffic_bytes_total", "bus", "out"): 77,
            ("golem_p2p_traffic_bytes_total", "gossip", "in"): 0,
            ("golem_p2p_streams_opened_total", "bus", "peer"): 3,
            ("golem_p2p_dials_total", "refused"): 2,
            ("golem_p2p_reachability", "relayed"): 1,
            ("golem_p2p_reachability", "public"): 0,
            ("golem_p2p_relay_reservations",): 1,
            ("golem_p2p_known_nodes",): 12,
            ("golem_p2p_clock_skew_seconds",): -1.5,
            ("golem_p2p_directory_nodes",): 5,
            ("golem_p2p_directory_events_total", "lookups"): 9,
        }.items():
            assert found[name] == value, (name, sorted(found))
        assert here.node_id.encode() not in (await client.get("/metrics")).body


async def test_nobody_is_named_and_labels_stay_few(autojump_clock: MockClock) -> None:
    async with two() as (client, events, here, there):
        first = await client.figures()
        for number in range(50):
            stranger = f"0x{number:040x}"
            events.add(PeerDropped(stranger, dialled=False, why="stranger", reason=f"it is {stranger}"))
            await client(f"METHOD{number}", f"/market-api/v1/{number}")
            with contextlib.suppress(BusError):
                await here.bus.call(f"/local/service{number}/Ask", b"")
        body = (await client.get("/metrics")).body
        assert b"0x0000" not in body
        assert there.node_id.encode() not in body
        assert len(await client.figures()) < len(first) + 60
        assert b"METHOD" not in body


async def test_where_the_daemon_has_them(autojump_clock: MockClock) -> None:
    async with two() as (client, events, _, there):
        events.add(PeerDropped(there.node_id, dialled=True, why="network", reason="elsewhere"))
        for path in ("expose", "filtered", "sorted"):
            answer = await client.get(f"/metrics-api/v1/{path}")
            assert (answer.status, answer.content_type) == (200, "text/plain; charset=utf-8")
            assert b"golem_p2p_admissions_refused_total" in answer.body
            assert b"python_info" in answer.body
        lines = (await client.get("/metrics-api/v1/sorted")).body.splitlines()
        assert lines == sorted(lines)
        assert not any(line.startswith(b"#") for line in lines)
        some = (await client.get("/metrics-api/v1/filtered/golem_p2p_peers,golem_p2p_bus")).body.decode()
        named = {family.name for family in text_string_to_metric_families(some)}
        assert named == {"golem_p2p_peers", "golem_p2p_bus_calls", "golem_p2p_bus_call_seconds"}
        assert (await client.get("/metrics-api/v1/filtered/,")).body == b""
