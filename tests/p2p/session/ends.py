"""Two ends of our own, over sockets or in memory."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio
from trio.testing import memory_stream_pair

from p2p.entropy import SeededEntropy
from p2p.session import MemoryBudget, MuxedStream, NoiseIdentity, Secp256k1Identity, Session, upgrade
from p2p.session.yamux import YamuxSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

ECHO = "/echo/1"
QUIET = YamuxSettings()


def identity(seed: int = 1) -> NoiseIdentity:
    return NoiseIdentity(Secp256k1Identity(bytes([seed]) * 32), SeededEntropy(seed, "static"))


def sockets(buffer_bytes: int | None = None) -> tuple[trio.SocketStream, trio.SocketStream]:
    """Return both ends of a TCP connection on loopback."""
    with socket.socket() as listener:
        if buffer_bytes is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    if buffer_bytes is not None:
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes)
    streams = [trio.SocketStream(trio.socket.from_stdlib_socket(one)) for one in (near, far)]
    return streams[0], streams[1]


async def upgraded(
    near: trio.abc.Stream,
    *,
    initiator: bool,
    seed: int | None = None,
    budget: MemoryBudget | None = None,
    settings: YamuxSettings = QUIET,
    expected: str | None = None,
) -> Session:
    seed = seed if seed is not None else 1 if initiator else 2
    return await upgrade(
        near,
        identity(seed),
        initiator=initiator,
        entropy=SeededEntropy(seed, "ephemeral"),
        budget=budget or MemoryBudget(),
        settings=settings,
        expected=expected,
    )


async def serve_echo(stream: MuxedStream) -> None:
    """Answer a stream with what it says."""
    try:
        await stream.respond({ECHO})
        while data := await stream.receive_some(262_144):
            await stream.send_all(data)
        await stream.aclose()
    except BaseException:
        stream.reset()
        raise


class Pair:
    """Two sessions with each other, and the streams that the second has accepted."""

    def __init__(self, near: Session, far: Session) -> None:
        self.near, self.far = near, far
        self.accepted_send, self.accepted = trio.open_memory_channel[MuxedStream](1000)

        self.refusing = False

    def take(self, stream: MuxedStream) -> None:
        if self.refusing:
            raise RuntimeError("nothing is accepted now")
        self.accepted_send.send_nowait(stream)

    async def streams(self, protocol: str = ECHO) -> tuple[MuxedStream, MuxedStream]:
        """Open a stream and return both its ends."""
        near = await self.near.open_stream(protocol, lazy=True)
        far = await self.accepted.receive()
        await far.respond({protocol})
        return near, far


@asynccontextmanager
async def pair(
    *,
    near: YamuxSettings = QUIET,
    far: YamuxSettings = QUIET,
    budgets: tuple[MemoryBudget, MemoryBudget] | None = None,
    streams: Callable[[], tuple[Any, Any]] = sockets,
) -> AsyncIterator[Pair]:
    one, two = streams()
    mine, theirs = budgets or (MemoryBudget(), MemoryBudget())
    made: dict[bool, Session] = {}

    async def make(stream: Any, initiator: bool) -> None:
        settings = near if initiator else far
        budget = mine if initiator else theirs
        made[initiator] = await upgraded(stream, initiator=initiator, settings=settings, budget=budget)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(make, one, True)
        nursery.start_soon(make, two, False)
    both = Pair(made[True], made[False])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(both.near.run, both.take)
        nursery.start_soon(both.far.run, both.take)
        yield both
        nursery.cancel_scope.cancel()


def in_memory() -> tuple[Any, Any]:
    return memory_stream_pair()
