"""Bus calls between two nodes for the session benchmark, and the same messages on open streams without the bus.

Both are real: two processes, `LibP2POverlay`, `PeerBus`, a service that gives back what it gets. The raw streams carry
the very bytes of the bus's frames, encoded once, and nobody looks into them: what is measured is the session alone.
"""

from __future__ import annotations

import logging
import os
import statistics
import threading
import time
from contextlib import asynccontextmanager
from multiprocessing import get_context
from typing import TYPE_CHECKING

import structlog
import trio

from p2p.bus.api import net_address
from p2p.bus.frames import Reply, Request, encode
from p2p.bus.peer import PeerBus
from p2p.bus.router import LocalBus
from p2p.clock import SystemClock
from p2p.entropy import SystemEntropy
from p2p.host import LibP2POverlay, prepare
from p2p.identity import PrivateKey
from p2p.overlay import protocol_id

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from multiprocessing.connection import Connection

    from p2p.bus import Call
    from p2p.overlay import Overlay, Stream

BODY = bytes(1024)
CALLERS = 100
SECONDS, RUNS = 1.0, 3
ADDRESS = "/public/echo/Echo"
RAW, SINK = protocol_id("devnet", "bench/raw", 1), protocol_id("devnet", "bench/sink", 1)
REQUEST = encode(Request(1000, ADDRESS, BODY, timeout_ms=30_000))
REPLY = encode(Reply(1000, BODY))


class Echo:
    async def call(self, call: Call) -> bytes:
        return call.body

    def stream(self, call: Call) -> AsyncIterator[bytes]:
        raise NotImplementedError


async def raw_echo(stream: Stream) -> None:
    left = len(REQUEST)
    while data := await stream.receive_some(left):
        left -= len(data)
        if not left:
            await stream.send_all(REPLY)
            left = len(REQUEST)


async def sink(stream: Stream) -> None:
    while await stream.receive_some(262_144):
        pass


@asynccontextmanager
async def node() -> AsyncIterator[tuple[Overlay, LocalBus]]:
    await prepare()
    entropy = SystemEntropy()
    overlay = LibP2POverlay(PrivateKey.generate(entropy), "devnet", clock=SystemClock(), entropy=entropy)
    bus = LocalBus(overlay.node_id)
    async with overlay.running(), PeerBus(overlay, bus).running():
        yield overlay, bus


def child(control: Connection, core: int) -> None:
    os.sched_setaffinity(0, {core})
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    trio.run(_serve, control)


async def _serve(control: Connection) -> None:
    async with node() as (overlay, bus):
        bus.register("/public/echo", Echo())
        overlay.serve(RAW, raw_echo)
        overlay.serve(SINK, sink)
        control.send(overlay.listen_addresses()[0])

        def answer() -> None:
            while control.recv() != "stop":
                control.send(time.process_time())
            os._exit(0)

        threading.Thread(target=answer, daemon=True).start()
        await trio.sleep_forever()


class Rate:
    """The best of some runs of `once`, by some tasks at a time."""

    def __init__(self, control: Connection) -> None:
        self._control = control
        self.best = 0.0
        self.cost = float("inf")
        """CPU microseconds each, of the busier side."""

    async def run(self, once: Sequence[Callable[[], Awaitable[object]]]) -> None:
        count = 0
        cpu, theirs, began = time.process_time(), self._their_cpu(), time.perf_counter()

        async def work(one: Callable[[], Awaitable[object]]) -> None:
            nonlocal count
            while time.perf_counter() - began < SECONDS:
                await one()
                count += 1

        async with trio.open_nursery() as nursery:
            for one in once:
                nursery.start_soon(work, one)
        taken = time.perf_counter() - began
        busier = max(time.process_time() - cpu, self._their_cpu() - theirs)
        self.best = max(self.best, count / taken)
        self.cost = min(self.cost, busier / count * 1e6)

    def _their_cpu(self) -> float:
        self._control.send("cpu")
        return float(self._control.recv())


def raw_call(stream: Stream) -> Callable[[], Awaitable[None]]:
    async def once() -> None:
        await stream.send_all(REQUEST)
        left = len(REPLY)
        while left:
            left -= len(await stream.receive_some(left))

    return once


async def _measure(control: Connection, address: str) -> dict[str, float]:
    async with node() as (overlay, bus):
        peer = await overlay.connect(address)
        called = net_address(peer, "echo/Echo")

        async def call() -> None:
            await bus.call(called, BODY)

        raws = [raw_call(await overlay.open_stream(peer, RAW)) for _ in range(CALLERS)]
        names = ("bus_sequential", "raw_sequential", "bus_concurrent", "raw_concurrent")
        rates = {name: Rate(control) for name in names}
        for _ in range(RUNS):  # in turns, so that a load on the machine meets both
            await rates["bus_sequential"].run([call])
            await rates["raw_sequential"].run(raws[:1])
            await rates["bus_concurrent"].run([call] * CALLERS)
            await rates["raw_concurrent"].run(raws)
        found = {name: rate.best for name, rate in rates.items()}
        found |= {f"{name}_cpu": rate.cost for name, rate in rates.items()}
        return found | await _beside_bulk(overlay, call, await overlay.open_stream(peer, SINK))


async def _beside_bulk(
    overlay: Overlay, call: Callable[[], Awaitable[object]], stream: Stream
) -> dict[str, float]:
    """Return milliseconds of a call alone, and while a stream sends as fast as it can, and MB/s of that stream."""
    sent = 0

    async def send() -> None:
        nonlocal sent
        block = bytes(262_144)
        while True:
            await stream.send_all(block)
            sent += len(block)

    async def times() -> list[float]:
        found = []
        for _ in range(300):
            began = time.perf_counter()
            await call()
            found.append((time.perf_counter() - began) * 1e3)
        return found

    alone = await times()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await trio.sleep(0.5)
        sent, began = 0, time.perf_counter()
        beside = await times()
        rate = sent / (time.perf_counter() - began) / 1e6
        nursery.cancel_scope.cancel()
    return {
        "bus_alone": statistics.median(alone),
        "bus_beside_bulk": statistics.median(beside),
        "bulk_beside_bus": rate,
    }


def measure() -> dict[str, float]:
    """Measure, in two processes, each pinned to a core where there are two."""
    cores = sorted(os.sched_getaffinity(0))
    context = get_context("spawn")
    control, theirs = context.Pipe()
    server = context.Process(target=child, args=(theirs, cores[-1]), daemon=True)
    server.start()
    os.sched_setaffinity(0, {cores[0]})
    try:
        return trio.run(_measure, control, control.recv())
    finally:
        control.send("stop")
        server.join()
        os.sched_setaffinity(0, cores)


if __name__ == "__main__":
    for name, value in measure().items():
        print(f"{name:30} {value:12.2f}")
