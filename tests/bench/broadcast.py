"""Broadcast: processor time for each delivery of a 1 KiB message among twenty nodes in one process.

Three figures that contain each other. The *router* alone: bytes in, bytes out, signatures made and verified,
on virtual time, heartbeats included. The *node*: the same with its driver, streams and sync, over the overlay in
memory on virtual time. And *over py-libp2p's TCP, Noise and yamux* in real time, where the peer is py-libp2p's own
GossipSub over the very same transport, in the same run and at the same rate; here most of ours is the transport.
Both sign and verify every message. `sync` is the processor time of comparing two equal sets of 10 000 records.
"""

from __future__ import annotations

import logging
import time
import warnings
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import structlog
import trio
from trio.testing import MockClock

from p2p.broadcast.driver import GossipBroadcast
from p2p.broadcast.ranges import EVERYTHING, Holding
from p2p.broadcast.sign import StrictSign
from p2p.clock import SystemClock
from p2p.entropy import SeededEntropy
from p2p.identity import PrivateKey
from tests.bench._report import figure, main

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from tests.p2p.broadcast.stock import StockOverlay, dial, stock_gossip
from tests.p2p.broadcast.swarm import Swarm
from tests.p2p.broadcast.world import NAME, WIRE_NAME, Store, World, record

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

NODES = 20
NEIGHBOURS = 4
"""Each node dials this many others, so that it knows twice as many."""
MESSAGES = 200
"""In the figures of virtual time."""
BYTES = 1024
RATE = 2.0
"""Messages a second in real time: about what saturates py-libp2p with twenty hosts on one core."""
REAL_MESSAGES = 16
SETTLE = 4.0
DRAIN = 20.0
KEYS = [PrivateKey(bytes((number + 1,)) * 32) for number in range(NODES)]


def router_us() -> float:
    """Return microseconds of processor time for each delivery, of the router alone."""
    names = {f"n{number:03}": key for number, key in enumerate(KEYS)}
    swarm = Swarm(NODES, seal=lambda name: StrictSign(names[name]))
    swarm.connect_some(2 * NEIGHBOURS)
    swarm.run(SETTLE)
    began = time.process_time()
    for number in range(MESSAGES):
        swarm.publish(swarm.names[number % NODES], record(str(number), size=BYTES))
        swarm.run(1 / RATE)
    swarm.run(2)
    spent = time.process_time() - began
    assert all(len(swarm.got[name]) == MESSAGES for name in swarm.names)
    return spent / (MESSAGES * (NODES - 1)) * 1e6


def node_us() -> float:
    """Return the same of whole broadcasts over the overlay in memory."""

    async def run() -> float:
        async with World(NODES) as world:
            for number in range(NODES):
                for step in range(1, NEIGHBOURS + 1):
                    await world.connect(number, (number + step * step) % NODES)
            await trio.sleep(SETTLE)
            began = time.process_time()
            for number in range(MESSAGES):
                await world.nodes[number % NODES].publish(record(str(number), size=BYTES))
                await trio.sleep(1 / RATE)
            await trio.sleep(2)
            spent = time.process_time() - began
            assert all(len(node.store.kept) == MESSAGES for node in world.nodes)
            return spent

    return trio.run(run, clock=MockClock(autojump_threshold=0)) / (MESSAGES * (NODES - 1)) * 1e6


async def ours_over_stock() -> float:
    """Return microseconds for each delivery, over py-libp2p's transport, in real time."""
    log = structlog.wrap_logger(structlog.ReturnLogger(), processors=[lambda *_: ""])
    stores = [Store() for _ in KEYS]
    overlays = [StockOverlay(key) for key in KEYS]
    broadcasts = [
        GossipBroadcast(overlay, key, SystemClock(), SeededEntropy(number), log)
        for number, (overlay, key) in enumerate(zip(overlays, KEYS, strict=True))
    ]
    async with AsyncExitStack() as stack:
        for overlay, broadcast, store in zip(overlays, broadcasts, stores, strict=True):
            await stack.enter_async_context(overlay.running())
            await stack.enter_async_context(broadcast.running())
            await broadcast.join(store)
        await _connect([overlay.connect for overlay in overlays], [o.listen_addresses()[0] for o in overlays])

        async def publish(number: int) -> None:
            data = record(str(number), size=BYTES)
            stores[number % NODES].keep(data)
            await broadcasts[number % NODES].publish(NAME, data)

        return await _spent(publish, lambda: sum(len(store.asked) for store in stores))


async def stock_over_stock() -> float:
    """Return the same of py-libp2p's GossipSub."""
    got = 0

    async def count(subscription: Any, own: bytes) -> None:
        nonlocal got
        while True:
            message = await subscription.get()
            got += message.from_id != own

    def dialler(host: Any) -> Callable[[str], Awaitable[Any]]:
        return lambda address: dial(host, address)

    async with AsyncExitStack() as stack:
        stocks = [await stack.enter_async_context(stock_gossip(key, WIRE_NAME)) for key in KEYS]
        async with trio.open_nursery() as nursery:
            for host, _, subscription in stocks:
                nursery.start_soon(count, subscription, host.get_id().to_bytes())
            hosts = [host for host, _, _ in stocks]
            await _connect([dialler(host) for host in hosts], [str(host.get_addrs()[0]) for host in hosts])

            async def publish(number: int) -> None:
                await stocks[number % NODES][1].publish(WIRE_NAME, record(str(number), size=BYTES))

            spent = await _spent(publish, lambda: got)
            nursery.cancel_scope.cancel()
    return spent


async def _connect(dials: Sequence[Callable[[str], Awaitable[Any]]], addresses: Sequence[str]) -> None:
    async def connect(number: int) -> None:
        for step in range(1, NEIGHBOURS + 1):
            await dials[number](addresses[(number + step * step) % NODES])

    async with trio.open_nursery() as nursery:
        for number in range(NODES):
            nursery.start_soon(connect, number)
    await trio.sleep(SETTLE)


async def _spent(publish: Callable[[int], Awaitable[None]], delivered: Callable[[], int]) -> float:
    expected = REAL_MESSAGES * (NODES - 1)
    before, began = delivered(), time.process_time()
    for number in range(REAL_MESSAGES):
        due = trio.current_time() + 1 / RATE
        await publish(number)
        await trio.sleep_until(due)
    with trio.move_on_after(DRAIN):
        while delivered() - before < expected:  # noqa: ASYNC110 - counts what others deliver
            await trio.sleep(0.05)
    spent = time.process_time() - began
    reached = delivered() - before
    if reached < expected * 0.95:
        raise RuntimeError(f"only {reached} of {expected} deliveries came within {DRAIN:g} s")
    return spent / reached * 1e6


def sync_ms() -> float:
    """Return milliseconds of processor time to compare two equal sets of 10 000, one side."""
    held = {f"{KEYS[0].node_id}/{number}": 1_767_225_600_000 for number in range(10_000)}
    began = time.process_time()
    for _ in range(10):
        Holding(held).fingerprint(EVERYTHING)
    return (time.process_time() - began) / 10 * 1e3


def measure() -> dict[str, Any]:
    """Measure; takes about 40 s."""
    warnings.simplefilter("ignore")  # py-libp2p's
    logging.disable(logging.CRITICAL)
    ours = trio.run(ours_over_stock)
    stock = trio.run(stock_over_stock)
    return {
        "router: CPU per delivery": figure(router_us(), "us"),
        "node in memory: CPU per delivery": figure(node_us(), "us"),
        "over py-libp2p's transport: CPU per delivery": figure(
            ours, "us", {"py-libp2p 0.8.1 GossipSub, same transport": stock}
        ),
        "sync of two equal sets of 10 000: CPU per side": figure(sync_ms(), "ms"),
    }


if __name__ == "__main__":
    raise SystemExit(main("broadcast", measure))
