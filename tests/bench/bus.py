"""The bus: rates of calls and streams, in process and through the door between two processes.

Peers: the same bytes over a bare unix socket, by trio and by blocking calls, which is what no bus can beat; and
for calls in process, the handler awaited directly. Each rate is the best of some short runs.

Both processes are pinned, once to one core and once to two, and each peer is measured in the same placement:
where the scheduler is left to choose, a bare round trip differs more than tenfold from run to run, since waking the
other core can cost far more than the work does.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import tempfile
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from p2p.bus.api import Call, Caller
from p2p.bus.client import connect
from p2p.bus.door import Door
from p2p.bus.router import LocalBus
from p2p.entropy import SeededEntropy
from tests.bench._report import figure, main

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from multiprocessing.synchronize import Event

NODE = "0x" + "1" * 40
BODY = bytes(100)
ITEM = bytes(64 * 1024)
RUN_SECONDS = 0.5
RUNS = 5
CONCURRENT = 100
ADDRESS = "/local/echo/Echo"

higher = partial(figure, lower_is_better=False)


class Echo:
    async def call(self, call: Call) -> bytes:
        return call.body

    async def stream(self, call: Call) -> AsyncIterator[bytes]:
        item = ITEM if call.method == "Large" else BODY
        while True:
            yield item


def serve(folder: str, ready: Event, core: int) -> None:
    """Run the other process: a node with a door, and two bare echo servers."""
    os.sched_setaffinity(0, {core})
    threading.Thread(target=_blocking_echo, args=(folder + "/blocking",), daemon=True).start()
    trio.run(_serve, folder, ready)


async def _serve(folder: str, ready: Event) -> None:
    bus = LocalBus(NODE)
    bus.register("/local/echo", Echo())
    door = Door(bus, folder + "/door", entropy=SeededEntropy(1))
    listener = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    await listener.bind(folder + "/trio")
    listener.listen(200)
    async with door.running():
        door.store_owner_token()
        ready.set()
        await trio.serve_listeners(_trio_echo, [trio.SocketListener(listener)])


async def _trio_echo(stream: trio.SocketStream) -> None:
    async for data in stream:
        await stream.send_all(data)


def _blocking_echo(path: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen()
        connection, _ = listener.accept()
        while data := connection.recv(65536):
            connection.sendall(data)


async def rate(once: Callable[[], Awaitable[object]], tasks: int = 1) -> float:
    """Return how often a second `once` is done, by `tasks` tasks at a time."""
    best = 0.0
    for _ in range(RUNS):
        best = max(best, await _one_run(once, tasks))
    return best


async def _one_run(once: Callable[[], Awaitable[object]], tasks: int) -> float:
    count = 0
    began = time.perf_counter()

    async def work() -> None:
        nonlocal count
        while time.perf_counter() - began < RUN_SECONDS:
            await once()
            count += 1

    async with trio.open_nursery() as nursery:
        for _ in range(tasks):
            nursery.start_soon(work)
    return count / (time.perf_counter() - began)


def blocking_rate(path: str) -> float:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(path)
        best = 0.0
        for _ in range(RUNS):
            count, began = 0, time.perf_counter()
            while time.perf_counter() - began < RUN_SECONDS:
                connection.sendall(BODY)
                if connection.recv(65536) != BODY:
                    raise RuntimeError("the echo is not what was sent")
                count += 1
            best = max(best, count / (time.perf_counter() - began))
        return best


async def _trio_rates(path: str) -> tuple[float, float]:
    streams = [await trio.open_unix_socket(path) for _ in range(CONCURRENT)]
    free = list(streams)

    async def once() -> None:
        stream = free.pop()
        await stream.send_all(BODY)
        await stream.receive_some()
        free.append(stream)

    rates = await rate(once), await rate(once, CONCURRENT)
    for stream in streams:
        await stream.aclose()
    return rates


async def _bare_throughput(path: str) -> float:
    """Return MB/s of echoing large items by trio, one way counted."""
    async with await trio.open_unix_socket(path) as stream:

        async def once() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.send_all, ITEM)
                left = len(ITEM)
                while left:
                    left -= len(await stream.receive_some())

        return await rate(once) * len(ITEM) / 1e6


async def _through_the_door(folder: str) -> dict[str, Any]:
    bare, bare_many = await _trio_rates(folder + "/trio")
    blocking = blocking_rate(folder + "/blocking")
    with open(folder + "/door.token", encoding="ascii") as file:  # noqa: ASYNC230 - nothing else runs
        token = file.read().strip()
    async with connect(folder + "/door", token) as bus:
        once = partial(bus.call, ADDRESS, BODY)
        alone, many = await rate(once), await rate(once, CONCURRENT)
        async with bus.stream("/local/echo/Small", b"") as items:
            small = await rate(partial(anext, items))
        async with bus.stream("/local/echo/Large", b"") as items:
            large = await rate(partial(anext, items)) * len(ITEM) / 1e6
    bare_large = await _bare_throughput(folder + "/trio")
    return {
        "calls_one_at_a_time": higher(
            alone, "calls/s", {"bare socket, trio": bare, "bare socket, blocking": blocking}
        ),
        "calls_100_at_a_time": higher(many, "calls/s", {"100 bare sockets, trio": bare_many}),
        "stream_items_100_bytes": higher(small, "items/s"),
        "stream_items_64_kib": higher(large, "MB/s", {"bare socket echo, trio": bare_large}),
    }


async def _in_process() -> dict[str, Any]:
    local = LocalBus(NODE)
    local.register("/local/echo", Echo())
    call = Call(Caller(NODE, local=True), ADDRESS, BODY)
    calls = await rate(partial(local.call, ADDRESS, BODY))
    direct = await rate(partial(Echo().call, call))
    return {"in_process_calls": higher(calls, "calls/s", {"handler awaited directly": direct})}


def measure() -> dict[str, Any]:
    """Measure in each placement that this machine has."""
    cores = sorted(os.sched_getaffinity(0))
    placements = {"door_same_core": cores[0], "door_two_cores": cores[-1]}
    if len(cores) == 1:
        del placements["door_two_cores"]
    figures: dict[str, Any] = {}
    os.sched_setaffinity(0, {cores[0]})
    try:
        for placement, core in placements.items():
            measured = _with_server(core)
            figures |= {f"{placement}_{name}": one for name, one in measured.items()}
        return figures | trio.run(_in_process)
    finally:
        os.sched_setaffinity(0, cores)


def _with_server(core: int) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    with tempfile.TemporaryDirectory(prefix="bus-") as folder:
        server = context.Process(target=serve, args=(folder, ready, core), daemon=True)
        server.start()
        try:
            if not ready.wait(30):
                raise RuntimeError("the other process did not start within 30 s")
            return trio.run(_through_the_door, folder)
        finally:
            server.terminate()
            server.join()


if __name__ == "__main__":
    raise SystemExit(main("bus", measure))
