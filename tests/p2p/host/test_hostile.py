"""A node over real sockets among peers that mean harm or are broken: it serves the others meanwhile."""

from __future__ import annotations

import os
import random
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import structlog
import structlog.testing
import trio
import trio.lowlevel

from p2p.broadcast.driver import GossipBroadcast
from p2p.bus.peer import PeerBus
from p2p.bus.router import LocalBus
from p2p.clock import SystemClock
from p2p.entropy import SystemEntropy
from p2p.host.limits import HostLimits
from p2p.identity import PrivateKey
from p2p.overlay import OverlayError, PeerUnreachable, Stream
from p2p.session import YamuxSettings
from p2p.session.frames import HEADER_BYTES, SYN, WINDOW_UPDATE, frame
from p2p.testing.conformance import ask, broken, connect, echo, eventually, receive_all, serve
from tests.p2p.broadcast.world import NAME, Store
from tests.p2p.host.nodes import make, place_of, session_of, works

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from p2p.host.overlay import LibP2POverlay

GARBAGE_FRAMES = 10_000


@asynccontextmanager
async def whole_node() -> AsyncIterator[LibP2POverlay]:
    """Run a node with gossip, sync and bus."""
    key, entropy = PrivateKey(os.urandom(32)), SystemEntropy()
    overlay = make(key=key)
    log = structlog.wrap_logger(structlog.ReturnLogger(), processors=[lambda *_: ""])
    bus = PeerBus(overlay, LocalBus(key.node_id))
    broadcast = GossipBroadcast(overlay, key, SystemClock(), entropy, log)
    async with overlay.running(), bus.running(), broadcast.running():
        await broadcast.join(Store(NAME))
        yield overlay


@asynccontextmanager
async def served_meanwhile(node: LibP2POverlay) -> AsyncIterator[None]:
    """Have a friend talk with the node all the time; each answer has to come."""
    friend = make()
    protocol = serve(node, "friend", echo)
    answers = 0

    async def talk() -> None:
        nonlocal answers
        while True:
            with trio.fail_after(10):
                stream = await friend.open_stream(node.node_id, protocol)
                assert await ask(stream, b"friend" * 100) == b"friend" * 100
            answers += 1
            await trio.sleep(0.05)

    async with friend.running(), trio.open_nursery() as nursery:
        await connect(friend, node)
        nursery.start_soon(talk)
        yield
        before = answers
        await eventually(lambda: answers >= before + 2)
        nursery.cancel_scope.cancel()


async def test_every_handler_raises() -> None:
    async def fail(stream: Stream) -> None:
        await stream.receive_some(1)
        raise RuntimeError("as every handler here")

    async with make().running() as node, make().running() as other, served_meanwhile(node):
        protocols = [serve(node, f"bad{n}", fail) for n in range(10)]
        await connect(other, node)

        async def try_one(protocol: str) -> None:
            stream = await other.open_stream(node.node_id, protocol)
            await stream.send_all(b"!")
            await broken(lambda: receive_all(stream))

        async with trio.open_nursery() as nursery:
            for number in range(60):
                nursery.start_soon(try_one, protocols[number % 10])
        assert [peer.node_id for peer in other.peers()] == [node.node_id]


@pytest.mark.slow
async def test_ten_thousand_frames_of_garbage_on_every_protocol() -> None:
    chance = random.Random(1)
    async with whole_node() as node, make().running() as other, served_meanwhile(node):
        served = sorted(map(str, node._host.served))
        assert {"/ipfs/id/1.0.0", "/ipfs/ping/1.0.0", "/meshsub/1.1.0", "/meshsub/1.2.0"} < set(served)
        assert any("/bus/" in p for p in served)
        assert any("/hello/" in p for p in served)
        for protocol in served:
            await _pour_garbage(other, node, protocol, chance)
        assert len(node._sessions) <= 3


async def _pour_garbage(
    other: LibP2POverlay, node: LibP2POverlay, protocol: str, chance: random.Random
) -> None:
    sent = 0
    while sent < GARBAGE_FRAMES:
        await other.connect(node.listen_addresses()[0])
        stream: Any = None
        with trio.move_on_after(5):
            try:
                stream = await other.open_stream(node.node_id, protocol)
                while sent < GARBAGE_FRAMES:
                    frames = [_garbage(chance) for _ in range(500)]
                    sent += len(frames)
                    await stream.send_all(b"".join(frames))
            except OverlayError:
                pass
        if stream is not None:
            stream.reset()


def _garbage(chance: random.Random) -> bytes:
    """Return a frame with a length as one protocol or another has it, and nonsense in it."""
    body = chance.randbytes(chance.randrange(1, 60))
    match chance.randrange(3):
        case 0:
            return bytes((len(body),)) + body
        case 1:
            return len(body).to_bytes(4, "big") + body
    return body


async def test_a_flood_of_streams_and_resets() -> None:
    async with make().running() as node, make().running() as other, served_meanwhile(node):
        await connect(other, node)
        wire = session_of(other, node).wire
        for _ in range(20):
            opened = [frame(WINDOW_UPDATE, SYN, wire.core._next_id + 2 * n, 0) for n in range(1000)]
            wire.core._next_id += 2 * len(opened)
            assert len(opened[0]) == HEADER_BYTES
            wire.core._control += b"".join(opened)
            wire.wake_writer()
            await trio.sleep(0.01)
        await trio.sleep(0.2)
        sessions = node._sessions.of(other.node_id)
        assert all(session.wire.stream_count <= 256 for session in sessions)
    assert len(node._sessions) == 0


async def test_slow_readers_hold_up_nobody() -> None:
    async def pour(stream: Stream) -> None:
        while True:
            await stream.send_all(bytes(65_536))

    async with make(memory_bytes=8 * 2**20).running() as node, AsyncExitStack() as stack:
        protocol = serve(node, "pour", pour)
        streams = []
        for _ in range(8):
            slow = await stack.enter_async_context(make().running())
            await connect(slow, node)
            for _ in range(4):
                stream = await slow.open_stream(node.node_id, protocol)
                await stream.receive_some(1)
                streams.append(stream)
        async with served_meanwhile(node):
            for _ in range(10):
                for stream in streams:
                    await stream.receive_some(1000)
            queued = sum(session.wire.core.queued for session in node._sessions.all())
            assert queued <= len(streams) * 4 * 65_536
        for stream in streams:
            stream.reset()


async def test_half_open_peers_are_let_go() -> None:
    """Some connect and say nothing, some stop in the handshake, some prove who they are and no more, some vanish."""
    settings = YamuxSettings(ping_interval=0.3, ping_timeout=0.5)
    node, vanishing = make(yamux=settings, limits=HostLimits(upgrades=40)), make()
    async with node.running(), served_meanwhile(node), AsyncExitStack() as stack:
        for number in range(30):
            stream = await stack.enter_async_context(await trio.open_tcp_stream(*place_of(node)))
            if number % 3:
                await stream.send_all(b"\x13/multistream/1.0.0\n\x07/noise\n"[: 10 * (number % 3)])
        await eventually(lambda: len(node._entrance.handshakes) == 30)
        async with vanishing.running():
            await connect(vanishing, node)
            session = session_of(vanishing, node)
            session.wire._wire.read = trio.sleep_forever  # it takes nothing any more
            session.wire._wire.send_now = lambda data: True  # and what it sends is lost
            await eventually(lambda: not node._sessions.of(vanishing.node_id))
        silent = make()
        async with silent.running():
            _, proven = await silent._dialer.dial(node.listen_addresses())
            await eventually(lambda: len(node._sessions.of(silent.node_id)) == 1)
            assert not any(peer.node_id == silent.node_id for peer in node.peers())
            assert not proven.closed
    assert node._gate.total == len(node._entrance.handshakes) == 0


@pytest.mark.slow
@pytest.mark.timeout(180)  # for a machine that does ten other things
async def test_a_thousand_connections_of_whole_overlays_come_and_go() -> None:
    with structlog.testing.capture_logs():  # cheaper than to print them
        await _thousand_come_and_go()


async def _thousand_come_and_go() -> None:
    async with make().running() as node:

        def held() -> tuple[int, int]:
            return trio.lowlevel.current_statistics().tasks_living, len(os.listdir("/proc/self/fd"))

        async def come_and_go(times: int) -> None:
            for number in range(times):
                async with make().running() as other:
                    for _ in range(4):
                        assert await other.connect(node.listen_addresses()[0]) == node.node_id
                        await other.disconnect(node.node_id)
                    assert await other.connect(node.listen_addresses()[0]) == node.node_id
                    if number % 10 == 0:
                        await works(other, node)

        async def come(times: int) -> None:
            async with trio.open_nursery() as nursery:
                for _ in range(10):
                    nursery.start_soon(come_and_go, times // 10)
            await eventually(lambda: not len(node._sessions))

        await come(20)
        await trio.sleep(1.5)
        before = held()
        await come(200)  # of which each connects five times
        await eventually(lambda: held() <= before)
        assert node._gate.total == 0
        assert not node._host.get_network().connections
        async with make().running() as other:
            await other.connect(node.listen_addresses()[0])
            await works(other, node)


async def test_a_peer_that_is_not_there_is_not_waited_for() -> None:
    """A node whose book is full of dead addresses still answers at once."""
    async with make().running() as node, served_meanwhile(node), trio.open_nursery() as nursery:
        stuck = [trio.socket.socket() for _ in range(5)]
        try:
            for sock in stuck:
                await sock.bind(("127.0.0.1", 0))
                sock.listen(1)
                nursery.start_soon(_give_up, node, f"/ip4/127.0.0.1/tcp/{sock.getsockname()[1]}")
            await trio.sleep(0.5)
        finally:
            for sock in stuck:
                sock.close()


async def _give_up(node: LibP2POverlay, address: str) -> None:
    with pytest.raises(PeerUnreachable):
        await node.connect(address)
