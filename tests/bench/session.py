"""Sessions of a node: throughput, connecting, calls on new streams, idle connections, a long fat link, and idleness.

Two processes on loopback, each pinned to a core where there are two: a node (`LibP2POverlay`), and sessions that have
said hello to it. Peers, in the same run and with the same work: `p2p.session` is our sessions without a host and without
hello; `py-libp2p` its hosts as they come, Noise and yamux only; `js-libp2p` is there where `make interop` has built it.
Rates are the best of some short runs and bulk is the slower direction; other load on the machine makes them smaller, of
all alike, while CPU times hardly change. `long_fat` is one process on virtual time and so shows the window and not the
CPU; the others have no such way to be driven. Calls over the bus are compared with the same messages on open streams
of the same session, without the bus. `idle_cpu` and `idle_bytes` take `--minutes` of real time.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import statistics
import struct
import threading
import time
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import trio

from tests.bench import _bus_nodes as bus_nodes
from tests.bench import _session_idle as idle
from tests.bench import _session_js
from tests.bench._report import figure, main
from tests.bench._session_node import Node
from tests.bench._session_ours import Ours, long_fat
from tests.bench._session_stock import Stock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager
    from multiprocessing.connection import Connection

ECHO, SINK, SOURCE = "/echo/1", "/sink/1", "/source/1"
ORDER = struct.Struct("!dI")
"""What a source is asked for: seconds to send, and bytes a write."""
BULK_SECONDS, BULK_RUNS = 1.5, 3
CALL_SECONDS, CALLERS, CALL_BYTES = 2.0, 100, 1024
CONNECTS = 40
IDLE = 1000
IDLE_SECONDS = 20.0
"""How long the idle connections may take to make; stock stops at 250."""

higher = partial(figure, lower_is_better=False)


class Line(Protocol):
    """A stream, of either subject."""

    async def send(self, data: bytes) -> None: ...

    async def receive(self, max_bytes: int) -> bytes: ...

    async def finish(self) -> None: ...

    async def close(self) -> None: ...


class Caller(Protocol):
    """A dialling node, of either subject."""

    def connected(self) -> AbstractAsyncContextManager[Any]:
        """Connect to the server as someone new; yields what `open` takes."""
        ...

    async def open(self, connection: Any, protocol: str) -> Line: ...


class Subject(Protocol):
    name: str

    async def serve(self, handlers: dict[str, Any], ready: Any) -> None: ...

    def calling(self, address: Any) -> AbstractAsyncContextManager[Caller]: ...


async def echo(line: Line) -> None:
    while data := await line.receive(65536):
        await line.send(data)
    await line.close()


async def sink(line: Line) -> None:
    count = 0
    while data := await line.receive(262_144):
        count += len(data)
    await line.send(count.to_bytes(8, "big"))
    await line.close()


async def source(line: Line) -> None:
    order = b""
    while len(order) < ORDER.size:
        order += await line.receive(ORDER.size - len(order))
    seconds, size = ORDER.unpack(order)
    await _send_for(line, seconds, size)
    await line.close()


async def _send_for(line: Line, seconds: float, size: int) -> int:
    block, count = bytes(size), 0
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        await line.send(block)
        count += size
    return count


def _child(subject: Subject, control: Connection) -> None:
    _pin(1)
    _many_files()

    def answer() -> None:
        while True:
            question = control.recv()
            if question == "stop":
                os._exit(0)
            control.send(time.process_time() if question == "cpu" else _rss())

    def ready(address: Any) -> None:
        control.send(address)
        threading.Thread(target=answer, daemon=True).start()

    trio.run(subject.serve, {ECHO: echo, SINK: sink, SOURCE: source}, ready)


class Server:
    """The other process."""

    def __init__(self, subject: Subject) -> None:
        context = multiprocessing.get_context("spawn")
        self._control, theirs = context.Pipe()
        self._process = context.Process(target=_child, args=(subject, theirs), daemon=True)
        self._process.start()
        self.address = self._control.recv()

    def ask(self, question: str) -> float:
        self._control.send(question)
        return float(self._control.recv())

    def stop(self) -> None:
        self._control.send("stop")
        self._process.join()


async def measure_bulk(caller: Caller, server: Server, size: int) -> tuple[float, float]:
    """Return MB/s of the slower direction, and CPU seconds a GB of the busier side."""
    rates, costs = [], []
    async with caller.connected() as connection:
        for direction in (SINK, SOURCE):
            best, cost = 0.0, 1e9
            for _ in range(BULK_RUNS):
                cpu, theirs, began = time.process_time(), server.ask("cpu"), time.perf_counter()
                count = await _one_way(caller, connection, direction, size)
                taken = time.perf_counter() - began
                busier = max(time.process_time() - cpu, server.ask("cpu") - theirs)
                best, cost = max(best, count / taken / 1e6), min(cost, busier / count * 1e9)
            rates.append(best)
            costs.append(cost)
    return min(rates), max(costs)


async def _one_way(caller: Caller, connection: Any, direction: str, size: int) -> int:
    line = await caller.open(connection, direction)
    if direction == SINK:
        count = await _send_for(line, BULK_SECONDS, size)
        await line.finish()
        told = b""
        while len(told) < 8:
            told += await line.receive(8 - len(told))
        if int.from_bytes(told, "big") != count:
            raise RuntimeError("not all that was sent has arrived")
    else:
        await line.send(ORDER.pack(BULK_SECONDS, size))
        count = 0
        while data := await line.receive(262_144):
            count += len(data)
    await line.close()
    return count


async def measure_calls(caller: Caller) -> float:
    """Return calls a second, each on a stream of its own, 100 at once."""
    body, count = bytes(CALL_BYTES), 0

    async with caller.connected() as connection:

        async def call() -> None:
            nonlocal count
            while time.perf_counter() < until:
                line = await caller.open(connection, ECHO)
                await line.send(body)
                left = CALL_BYTES
                while left:
                    left -= len(await line.receive(left))
                await line.finish()
                await line.close()
                count += 1

        began = time.perf_counter()
        until = began + CALL_SECONDS
        async with trio.open_nursery() as nursery:
            for _ in range(CALLERS):
                nursery.start_soon(call)
        return count / (time.perf_counter() - began)


async def measure_connect(caller: Caller, server: Server) -> tuple[float, float]:
    """Return the median milliseconds to connect, and CPU milliseconds of the busier side for each."""
    times = []
    async with caller.connected():
        pass
    cpu, theirs = time.process_time(), server.ask("cpu")
    for _ in range(CONNECTS):
        began = time.perf_counter()
        async with caller.connected():
            times.append((time.perf_counter() - began) * 1e3)
    busier = max(time.process_time() - cpu, server.ask("cpu") - theirs)
    return statistics.median(times), busier / CONNECTS * 1e3


async def measure_idle(caller: Caller, server: Server) -> tuple[int, float]:
    """Return how many connections were held at once and still served, and the server's KiB for each."""
    before = server.ask("rss")
    held: list[Any] = []
    enough, done = trio.Event(), trio.Event()
    limit = trio.CapacityLimiter(8)

    async def hold() -> None:  # a task each: a stock host is a nursery
        try:
            async with AsyncExitStack() as stack:
                async with limit:
                    if enough.is_set():
                        return
                    held.append(await stack.enter_async_context(caller.connected()))
                if len(held) == IDLE:
                    enough.set()
                await done.wait()
        except Exception:
            enough.set()

    async with trio.open_nursery() as nursery:
        for _ in range(IDLE):
            nursery.start_soon(hold)
        with trio.move_on_after(IDLE_SECONDS):
            await enough.wait()
        enough.set()
        await trio.sleep(0.5)
        after = server.ask("rss")
        served = 0
        with trio.move_on_after(IDLE_SECONDS):
            for connection in held:
                served += await _serves(caller, connection)
        nursery.cancel_scope.cancel()
    return served, (after - before) / max(1, len(held)) / 1024


async def _serves(caller: Caller, connection: Any) -> bool:
    try:
        with trio.fail_after(2):
            line = await caller.open(connection, ECHO)
            await line.send(b"x")
            heard = await line.receive(1) == b"x"
            await line.finish()
            await line.close()
            return heard
    except Exception:
        return False


@asynccontextmanager
async def _calling(subject: Subject) -> AsyncIterator[tuple[Caller, Server]]:
    server = Server(subject)
    try:
        async with subject.calling(server.address) as caller:
            yield caller, server
    finally:
        server.stop()


async def _measure_subject(subject: Subject) -> dict[str, float]:
    async with _calling(subject) as (caller, server):
        connect, handshake = await measure_connect(caller, server)
        large, _ = await measure_bulk(caller, server, 262_144)
        small, cpu = await measure_bulk(caller, server, 65_536)
        calls = await measure_calls(caller)
    async with _calling(subject) as (caller, server):  # anew: what went before has grown the heap
        served, idle = await measure_idle(caller, server)
    return {
        "bulk_256k": large,
        "bulk_64k": small,
        "bulk_cpu": cpu,
        "connect": connect,
        "new_stream_calls": calls,
        "handshake_cpu": handshake,
        "idle_connections_served": served,
        "idle_connection": idle,
    }


def measure(minutes: float) -> dict[str, Any]:
    _many_files()
    js = _session_js.measure()  # before this process is pinned to a core, which its children would be too
    idle_cpu, idle_bytes = idle.measure(minutes)
    _pin(0)
    node = trio.run(_measure_subject, Node())
    alone = trio.run(_measure_subject, Ours())
    stock = trio.run(_measure_subject, Stock())
    units = {
        "bulk_256k": ("MB/s", False),
        "bulk_64k": ("MB/s", False),
        "bulk_cpu": ("CPU-s/GB", True),
        "connect": ("ms", True),
        "new_stream_calls": ("/s", False),
        "handshake_cpu": ("ms", True),
        "idle_connections_served": ("connections", False),
        "idle_connection": ("KiB", True),
    }
    figures = {}
    for name, (unit, lower) in units.items():
        peers = {Ours.name: alone[name], Stock.name: stock[name]}
        if name in js:
            peers[_session_js.NAME] = js[name]
        figures[name] = figure(node[name], unit, peers, lower_is_better=lower)
    figures["long_fat"] = higher(long_fat(), "MB/s", note="of virtual time")
    lasted = f"{idle.PEERS} peers, {minutes:g} minutes"
    figures["idle_cpu"] = figure(idle_cpu * 100, "% of a core", note=lasted)
    figures["idle_bytes"] = figure(idle_bytes / 1000, "kB/s", note=lasted)
    return figures | _bus_figures(bus_nodes.measure())


def _bus_figures(found: dict[str, float]) -> dict[str, Any]:
    """Return what the bus costs: rates, CPU microseconds of the busier side, and milliseconds beside a bulk stream."""
    figures: dict[str, Any] = {}
    for way in ("sequential", "concurrent"):
        raw, bus = f"raw_{way}", f"bus_{way}"
        figures[bus] = higher(found[bus], "/s", {"raw_streams": found[raw]})
        figures[f"{bus}_cpu"] = figure(found[f"{bus}_cpu"], "us", {"raw_streams": found[f"{raw}_cpu"]})
    figures["bus_beside_bulk"] = figure(found["bus_beside_bulk"], "ms", {"alone": found["bus_alone"]})
    figures["bulk_beside_bus"] = higher(found["bulk_beside_bus"], "MB/s")
    return figures


def _pin(which: int) -> None:
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[which % len(cores)]})


def _many_files() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _rss() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    idleness = {"minutes": (10.0, "how long the idle node is watched")}
    raise SystemExit(main("session", measure, options=idleness))
