"""What a node costs that has 50 peers and nothing to do: CPU, and bytes on its connections.

The node is `LibP2POverlay` with the bus, gossip, the directory and reach on it, as `node.app` has them, in a process of
its own. Its peers are fifty more in another, which know nobody but it until it tells them of each other, as it would;
they look for no more peers. Bytes are what TCP carried both ways, as the kernel counts them, without headers.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import socket
import struct
import time
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import structlog
import trio

from p2p.broadcast.api import Verdict
from p2p.broadcast.driver import GossipBroadcast
from p2p.bus.peer import PeerBus
from p2p.bus.router import LocalBus
from p2p.clock import SystemClock
from p2p.discovery import DiscoverySettings
from p2p.discovery.directory import make_directory
from p2p.entropy import SystemEntropy
from p2p.host import LibP2POverlay
from p2p.identity import PrivateKey
from p2p.reach.service import ReachService

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from multiprocessing.connection import Connection

    from p2p.identity import NodeId

PEERS = 50
PATIENCE = 180.0
SETTLED = 15.0
"""Seconds from the last peer's hello to the beginning of idleness: introductions and meshes are over."""
LOOK_EVERY = 5.0
_ESTABLISHED = 1
_TCP_INFO = struct.Struct("B7x 24I 2Q 2Q")
"""Linux's tcp_info up to bytes acknowledged and received."""


class Nothing:
    """A topic on which nothing is said."""

    name = "idle/1"

    async def receive(self, data: bytes, source: NodeId) -> Verdict:
        return Verdict.IGNORE

    def held(self) -> Mapping[str, int]:
        return {}

    def record(self, key: str) -> bytes | None:
        return None


@asynccontextmanager
async def node(bootstrap: tuple[str, ...], settings: DiscoverySettings) -> AsyncIterator[LibP2POverlay]:
    clock, entropy = SystemClock(), SystemEntropy()
    key = PrivateKey(entropy.token_bytes(32))
    overlay = LibP2POverlay(
        key, "devnet", bootstrap=bootstrap, clock=clock, entropy=entropy, settings=settings
    )
    gossip = GossipBroadcast(overlay, key, clock, entropy, structlog.get_logger())
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(PeerBus(overlay, LocalBus(key.node_id)).running())
        await stack.enter_async_context(gossip.running())
        await gossip.join(Nothing())
        await stack.enter_async_context(overlay.running())
        nursery = await stack.enter_async_context(trio.open_nursery())
        stack.callback(nursery.cancel_scope.cancel)
        nursery.start_soon(ReachService(overlay.reach_host, clock=clock, entropy=entropy).run)
        directory = make_directory(
            key,
            overlay,
            overlay.discovery,
            acceptable=lambda _: True,
            clock=clock,
            entropy=entropy,
            diverse=False,
            spare=lambda peer: not overlay.speaking(peer),
        )
        overlay.find_addresses = directory.look_up
        await stack.enter_async_context(directory.running())
        yield overlay


class Carried:
    """Counts bytes on this process's TCP connections, those that ended meanwhile included."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}

    def look(self) -> int:
        """Return how many bytes were carried so far, both ways."""
        for fd in os.listdir("/proc/self/fd"):
            try:
                name = os.readlink(f"/proc/self/fd/{fd}")
                if not name.startswith("socket:"):
                    continue
                with socket.socket(fileno=os.dup(int(fd))) as one:
                    info = _TCP_INFO.unpack(
                        one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
                    )
            except (OSError, struct.error):  # closed since, or not TCP
                continue
            if info[0] == _ESTABLISHED:
                self._seen[name] = info[-2] + info[-1]
        return sum(self._seen.values())


def _quiet() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def _run_node(control: Connection, minutes: float) -> None:
    async def run() -> None:
        async with node((), DiscoverySettings()) as overlay:
            control.send(overlay.listen_addresses()[0])
            enough = trio.Event()
            overlay.subscribe_peers(lambda _: enough.set() if len(overlay.peers()) >= PEERS else None)
            with trio.fail_after(PATIENCE):
                await enough.wait()
            await trio.sleep(SETTLED)
            carried = Carried()
            before, cpu, began = carried.look(), time.process_time(), time.monotonic()
            while time.monotonic() < began + minutes * 60:
                await trio.sleep(LOOK_EVERY)
                after = carried.look()
            taken = time.monotonic() - began
            used = time.process_time() - cpu
            control.send((used / taken, (after - before) / taken, len(overlay.peers())))

    _quiet()
    trio.run(run)


def _run_peers(address: str) -> None:
    async def run() -> None:
        async with AsyncExitStack() as stack:
            for _ in range(PEERS):
                await stack.enter_async_context(node((address,), DiscoverySettings(target_peers=1)))
            await trio.sleep_forever()

    _quiet()
    trio.run(run)


def measure(minutes: float) -> tuple[float, float]:
    """Return which share of a core an idle node takes, and how many bytes a second it says and hears."""
    context = multiprocessing.get_context("spawn")
    control, theirs = context.Pipe()
    processes: list[Any] = [context.Process(target=_run_node, args=(theirs, minutes), daemon=True)]
    processes[0].start()
    theirs.close()  # so that its death is heard of
    try:
        processes.append(context.Process(target=_run_peers, args=(control.recv(),), daemon=True))
        processes[1].start()
        cpu, carried, peers = control.recv()
    finally:
        for process in processes:
            process.kill()
            process.join()
    if peers != PEERS:
        raise RuntimeError(f"the idle node ended with {peers} peers")
    return cpu, carried


if __name__ == "__main__":
    import sys

    print(measure(float(sys.argv[1])))
