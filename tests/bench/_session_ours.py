"""Our sessions for the benchmark: a server, a caller, and a long fat link on virtual time."""

from __future__ import annotations

from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio
import trio.testing

from p2p.entropy import SystemEntropy
from p2p.session import MemoryBudget, MuxedStream, NoiseIdentity, Secp256k1Identity, Session, upgrade

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

ROUND_TRIP = 0.1
WARM_UP_BYTES = 200 * 2**20
MEASURED_BYTES = 400 * 2**20


class OurLine:
    def __init__(self, stream: MuxedStream) -> None:
        self.send = stream.send_all
        self.receive = stream.receive_some
        self.finish = stream.send_eof
        self.close = stream.aclose


class Ours:
    name = "p2p.session"

    async def serve(self, handlers: dict[str, Any], ready: Callable[[Any], None]) -> None:
        entropy = SystemEntropy()
        identity = NoiseIdentity(Secp256k1Identity(entropy.token_bytes(32)), entropy)
        budget = MemoryBudget()
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=512)
        async with trio.open_nursery() as nursery:

            async def serve_stream(stream: MuxedStream) -> None:
                try:
                    await handlers[await stream.respond(handlers)](OurLine(stream))
                except Exception:
                    stream.reset()

            async def serve_one(stream: trio.SocketStream) -> None:
                try:
                    session = await upgrade(stream, identity, initiator=False, entropy=entropy, budget=budget)
                except Exception:
                    return
                await session.run(lambda accepted: nursery.start_soon(serve_stream, accepted))

            nursery.start_soon(trio.serve_listeners, serve_one, listeners)
            ready(listeners[0].socket.getsockname()[1])
            await trio.sleep_forever()

    @asynccontextmanager
    async def calling(self, address: int) -> AsyncIterator[OurCaller]:
        async with trio.open_nursery() as nursery:
            yield OurCaller(address, nursery)
            nursery.cancel_scope.cancel()


class OurCaller:
    def __init__(self, port: int, nursery: trio.Nursery) -> None:
        self._port = port
        self._nursery = nursery
        self._entropy = SystemEntropy()
        self._budget = MemoryBudget()
        self._identity = NoiseIdentity(Secp256k1Identity(self._entropy.token_bytes(32)), self._entropy)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Session]:
        stream = await trio.open_tcp_stream("127.0.0.1", self._port)
        session = await upgrade(
            stream, self._identity, initiator=True, entropy=self._entropy, budget=self._budget
        )
        self._nursery.start_soon(session.run, MuxedStream.reset)
        try:
            yield session
        finally:
            await session.aclose()

    async def open(self, connection: Session, protocol: str) -> OurLine:
        return OurLine(await connection.open_stream(protocol))


class LongPipe(trio.abc.HalfCloseableStream):
    """One end of a link without a bandwidth limit, whose bytes take half a round trip."""

    other: LongPipe

    def __init__(self) -> None:
        self._arriving: deque[tuple[float, bytes]] = deque()
        self._news = trio.Event()

    async def send_all(self, data: Any) -> None:
        await trio.lowlevel.checkpoint()
        self.other._arriving.append((trio.current_time() + ROUND_TRIP / 2, bytes(data)))
        self.other._news.set()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        while not self._arriving:
            self._news = trio.Event()
            await self._news.wait()
        await trio.sleep_until(self._arriving[0][0])
        when, data = self._arriving.popleft()
        if max_bytes is not None and len(data) > max_bytes:
            self._arriving.appendleft((when, data[max_bytes:]))
        return data[:max_bytes]

    async def send_eof(self) -> None:
        await self.send_all(b"")

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


def long_fat() -> float:
    """Return MB a virtual second of one stream over a round trip of 100 ms, when its window has grown."""
    return trio.run(_long_fat, clock=trio.testing.MockClock(autojump_threshold=0))


async def _long_fat() -> float:
    entropy, budget = SystemEntropy(), MemoryBudget()
    near, far = LongPipe(), LongPipe()
    near.other, far.other = far, near
    sessions: dict[bool, Session] = {}

    async def make(stream: LongPipe, initiator: bool) -> None:
        identity = NoiseIdentity(Secp256k1Identity(entropy.token_bytes(32)), entropy)
        sessions[initiator] = await upgrade(
            stream, identity, initiator=initiator, entropy=entropy, budget=budget
        )

    async with trio.open_nursery() as nursery:
        nursery.start_soon(make, near, True)
        nursery.start_soon(make, far, False)
    send, accepted = trio.open_memory_channel[MuxedStream](1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sessions[True].run, MuxedStream.reset)
        nursery.start_soon(sessions[False].run, send.send_nowait)
        stream = await sessions[True].open_stream("/sink/1", lazy=True)

        async def fill() -> None:
            block = bytes(2**20)
            while True:
                await stream.send_all(block)

        nursery.start_soon(fill)
        reader = await accepted.receive()
        await reader.respond({"/sink/1"})
        count, began = 0, 0.0
        while count < WARM_UP_BYTES + MEASURED_BYTES:
            if not began and count >= WARM_UP_BYTES:
                began, count = trio.current_time(), WARM_UP_BYTES
            count += len(await reader.receive_some(262_144))
        rate = MEASURED_BYTES / (trio.current_time() - began) / 1e6
        nursery.cancel_scope.cancel()
    return rate
