"""Kademlia: what it costs to put and to find a record, and how many finds succeed.

Twenty nodes in one process over real TCP on loopback, beside as many of py-libp2p's hosts with its own KadDHT in
the same run: processor time of both ends for one put of a signed record, and for one get by a node that has none
(of ours, signatures are verified and whatever the nodes do meanwhile is counted). And five hundred nodes on
virtual time: the share of finds that succeed, also after 30 % of the nodes have left at once, the requests and
hops that a find takes, and the processor time of it all, model of the network included.
"""

from __future__ import annotations

import importlib
import logging
import statistics
import time
import warnings
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import structlog
import trio
from trio.testing import MockClock

from p2p.clock import SystemClock
from p2p.discovery import DiscoverySettings
from p2p.discovery.directory import make_directory
from p2p.discovery.records import RecordRules
from p2p.entropy import SystemEntropy
from p2p.host.overlay import LibP2POverlay
from p2p.identity import PrivateKey
from tests.bench._report import figure, main
from tests.p2p.discovery.kademlia.world import Node, Swarm, swarm

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
    from libp2p.records.validator import BlankValidator, NamespacedValidator
    from libp2p.tools.anyio_service import background_trio_service
    from multiaddr import Multiaddr

    from tests.p2p.broadcast.stock import dial, stock_host

if TYPE_CHECKING:
    from collections.abc import Mapping

HOSTS = 20
PUTS = GETS = 20
SIMULATED = 500
FINDS = 200
LEAVING = 0.3
PROTOCOL = "/golem-p2p/devnet/kad/1.0.0"
LISTEN = "/ip4/127.0.0.1/tcp/0"


class Costs:
    """Processor milliseconds and successes of some operations."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self.succeeded: dict[str, float] = {}

    async def measure(self, name: str, operations: Any) -> None:
        """Await each of `operations`, factories of awaitables that tell whether they succeeded."""
        began, results = time.process_time(), []
        for operation in operations:
            with trio.move_on_after(30):
                results.append(await operation())
        self.spent[name] = (time.process_time() - began) / len(operations) * 1000
        self.succeeded[name] = sum(map(bool, results)) / len(operations) * 100


def record_of(key: PrivateKey, rules: RecordRules) -> tuple[bytes, bytes]:
    value = rules.sign(key, SystemClock().utc_ns(), ["/ip4/192.0.2.7/tcp/4001"])
    assert value is not None
    return rules.key(key.node_id), value


async def ours() -> Costs:
    """Twenty of our nodes: the overlay on libp2p, hello and all, and the directory's Kademlia."""
    rules, costs = RecordRules("devnet", lambda _: True), Costs()
    async with AsyncExitStack() as stack:
        nodes = []
        for _ in range(HOSTS):
            key = PrivateKey.generate(SystemEntropy())
            overlay = LibP2POverlay(
                key,
                "devnet",
                clock=SystemClock(),
                entropy=SystemEntropy(),
                settings=DiscoverySettings(target_peers=0),
            )
            directory = make_directory(
                key,
                overlay,
                overlay.discovery,
                acceptable=lambda _: True,
                clock=SystemClock(),
                entropy=SystemEntropy(),
                diverse=False,
                spare=lambda _: False,
            )
            await stack.enter_async_context(overlay.running())
            await stack.enter_async_context(directory.kademlia.running())
            if nodes:
                await overlay.connect(nodes[0][1].listen_addresses()[0])
            nodes.append((key, overlay, directory.kademlia))
        await trio.sleep(5)
        for _, _, kademlia in nodes:
            await kademlia.closest(b"anything")
        records = [record_of(key, rules) for key, *_ in nodes[:PUTS]]

        async def put(index: int) -> bool:
            keepers, _ = await nodes[index][2].put(*records[index])
            return keepers > 0

        async def get(index: int) -> bool:
            kademlia = nodes[(index + 7) % HOSTS][2]
            key, value = records[index]
            kademlia.store._records.pop(key, None)
            found, _ = await kademlia.find(key)
            return found is not None and found.value == value

        await costs.measure("put", [lambda i=i: put(i) for i in range(PUTS)])
        await costs.measure("get", [lambda i=i: get(i) for i in range(GETS)])
    return costs


async def stock() -> Costs:
    """As many hosts of py-libp2p with its KadDHT; its keys are text, so that others are put."""
    costs = Costs()
    async with AsyncExitStack() as stack:
        nodes: list[tuple[Any, Any]] = []
        for _ in range(HOSTS):
            host = stock_host(PrivateKey.generate(SystemEntropy()))
            await stack.enter_async_context(host.run(listen_addrs=[Multiaddr(LISTEN)]))
            validator = NamespacedValidator({"bench": BlankValidator()})
            dht = KadDHT(host, DHTMode.SERVER, validator=validator, validator_changed=True)
            await stack.enter_async_context(background_trio_service(dht))
            if nodes:
                await dht.add_peer(await dial(host, str(nodes[0][0].get_addrs()[0])))
                await nodes[0][1].add_peer(host.get_id())
            nodes.append((host, dht))
        for _, dht in nodes:
            with trio.move_on_after(20):
                await dht.refresh_routing_table()
        value = bytes(200)

        async def put(index: int) -> bool:
            await nodes[index][1].put_value(f"/bench/{index}", value)
            return any(
                dht.value_store.get(f"/bench/{index}".encode())
                for _, dht in nodes
                if dht is not nodes[index][1]
            )

        async def get(index: int) -> bool:
            dht = nodes[(index + 7) % HOSTS][1]
            dht.value_store.remove(f"/bench/{index}".encode())
            return await dht.get_value(f"/bench/{index}") == value

        await costs.measure("put", [lambda i=i: put(i) for i in range(PUTS)])
        await costs.measure("get", [lambda i=i: get(i) for i in range(GETS)])
    return costs


async def found(seeker: Node, sought: Node) -> bool:
    return list(await seeker.directory.look_up(sought.node_id)) == [sought.overlay.place]


async def simulated() -> Mapping[str, Any]:
    """Return the figures of five hundred nodes on virtual time."""
    began = time.process_time()
    async with swarm(SIMULATED, seed=7) as world:
        await trio.sleep(60)
        joined = (time.process_time() - began) / SIMULATED * 1000
        requests = sum(node.kademlia.counters["requests"] for node in world.nodes) / SIMULATED
        await trio.sleep(
            1200
        )  # so that what was published when the network was small is with the nearest of all
        before = await finds(world)
        for node in world.chance.sample(world.nodes, round(LEAVING * SIMULATED)):
            await world.leave(node)
        after = await finds(world)
        sizes = statistics.mean(len(node.kademlia.table) for node in world.nodes)
        return {
            "sim500_find_success": figure(before["success"], "%", lower_is_better=False),
            "sim500_find_requests": figure(before["requests"], "requests"),
            "sim500_find_hops": figure(before["hops"], "hops"),
            "sim500_find_time": figure(before["seconds"], "virtual s"),
            "sim500_find_cpu": figure(before["cpu"], "ms"),
            "sim500_churn30_find_success": figure(after["success"], "%", lower_is_better=False),
            "sim500_churn30_find_requests": figure(after["requests"], "requests"),
            "sim500_churn30_find_time": figure(after["seconds"], "virtual s"),
            "sim500_join_and_publish_requests": figure(requests, "requests"),
            "sim500_join_and_publish_cpu": figure(joined, "ms"),
            "sim500_table": figure(sizes, "contacts", lower_is_better=False),
        }


async def finds(world: Swarm) -> dict[str, float]:
    """Let random nodes find random others; return the averages."""
    began, hits, reports = time.process_time(), 0, []
    for _ in range(FINDS):
        seeker, sought = world.chance.sample(world.nodes, 2)
        hits += await found(seeker, sought)
        reports.append(seeker.directory.last_report)
    known = [report for report in reports if report is not None]
    return {
        "success": 100 * hits / FINDS,
        "cpu": (time.process_time() - began) / FINDS * 1000,
        "requests": statistics.mean(report.requests for report in known),
        "hops": statistics.mean(report.hops for report in known),
        "seconds": statistics.mean(report.seconds for report in known),
    }


def measure() -> Mapping[str, Any]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    logging.disable(logging.CRITICAL)
    for module in ("kad_dht", "peer_routing", "value_store", "provider_store"):
        importlib.import_module(f"libp2p.kad_dht.{module}").__dict__["PROTOCOL_ID"] = PROTOCOL
    mine, theirs = trio.run(ours), trio.run(stock)
    figures: dict[str, Any] = {}
    for name in ("put", "get"):
        figures[f"{name}_cpu"] = figure(mine.spent[name], "ms", {"py_libp2p": theirs.spent[name]})
        figures[f"{name}_success"] = figure(
            mine.succeeded[name], "%", {"py_libp2p": theirs.succeeded[name]}, lower_is_better=False
        )
    figures.update(trio.run(simulated, clock=MockClock(autojump_threshold=0)))
    return figures


if __name__ == "__main__":
    raise SystemExit(main("kademlia", measure))
