"""Checks of streams under load: readers that stall, bulk beside calls, and that all of it arrives."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import trio

from p2p.testing.conformance.exchanges import (
    MAX_UNREAD_BYTES,
    ask,
    connect,
    echo,
    eventually,
    receive_all,
    serve,
    settled,
)

if TYPE_CHECKING:
    from p2p.overlay import Overlay, Stream

BULK_BYTES = 24 * 2**20
"""What each of some streams moves while others ask; more than all buffers on the way hold."""


async def check_back_pressure(a: Overlay, b: Overlay) -> None:
    """A reader that stalls stops the sender, within bounds; when it reads on, nothing is missing."""
    go_on = trio.Event()
    done: list[int] = []

    async def stall(stream: Stream) -> None:
        await go_on.wait()
        count = 0
        while piece := await stream.receive_some():
            count += len(piece)
        done.append(count)

    protocol = serve(b, "stall", stall)
    await connect(a, b)
    stream = await a.open_stream(b.node_id, protocol)
    sent = [0]

    async def send() -> None:
        while not go_on.is_set():
            await stream.send_all(bytes(65_536))
            sent[0] += 65_536

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await settled(lambda: sent[0], limit=MAX_UNREAD_BYTES)
        go_on.set()
    await stream.aclose()
    await eventually(lambda: bool(done))
    assert done == sent


async def check_stalled_reader_beside_others(a: Overlay, b: Overlay) -> None:
    """Readers that do not read stop their own streams alone: others open, ask and move much meanwhile."""
    go_on = trio.Event()
    read: list[int] = []

    async def stall(stream: Stream) -> None:
        await go_on.wait()
        read.append(len(await receive_all(stream)))

    stalled, good = serve(b, "stalled", stall), serve(b, "good", echo)
    await connect(a, b)
    sent = [0] * 3

    async def fill(number: int) -> None:
        stream = await a.open_stream(b.node_id, stalled)
        while not go_on.is_set():
            await stream.send_all(bytes(65_536))
            sent[number] += 65_536
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        for number in range(len(sent)):
            nursery.start_soon(fill, number)
        await settled(lambda: sum(sent), limit=len(sent) * MAX_UNREAD_BYTES)
        for number in range(20):
            stream = await a.open_stream(b.node_id, good)
            assert await ask(stream, b"%d" % number) == b"%d" % number
        much = bytes(range(256)) * 8192
        assert await ask(await a.open_stream(b.node_id, good), much) == much
        assert not read
        go_on.set()
    await eventually(lambda: len(read) == len(sent))
    assert sorted(read) == sorted(sent)


async def check_calls_beside_bulk(a: Overlay, b: Overlay) -> None:
    """A question on one stream is answered while others carry as much as they can."""
    moved = [0]

    async def count(stream: Stream) -> None:
        while data := await stream.receive_some(262_144):
            moved[0] += len(data)

    bulk, good = serve(b, "bulk", count), serve(b, "good", echo)
    await connect(a, b)

    async def fill(stream: Stream) -> None:
        for _ in range(BULK_BYTES // 262_144):
            await stream.send_all(bytes(262_144))
        await stream.aclose()

    call = await a.open_stream(b.node_id, good)
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(fill, await a.open_stream(b.node_id, bulk))
        for _ in range(10):
            before = moved[0]
            await call.send_all(b"?")
            assert await call.receive_some() == b"?"
            assert moved[0] - before <= BULK_BYTES, "a question waits until others have sent what they want"
    await eventually(lambda: moved[0] == 4 * BULK_BYTES)
    call.reset()


async def check_stalled_reader(a: Overlay, b: Overlay, seconds: float = 1.0) -> None:
    """A reader that stalls for `seconds` keeps its stream, and reads on without loss. A minute is nothing special."""
    digests: list[bytes] = []

    async def stall(stream: Stream) -> None:
        hash_ = hashlib.sha256(await stream.receive_some(1))
        await trio.sleep(seconds)
        while piece := await stream.receive_some():
            hash_.update(piece)
        digests.append(hash_.digest())

    protocol = serve(b, "pause", stall)
    await connect(a, b)
    stream = await a.open_stream(b.node_id, protocol)
    hash_ = hashlib.sha256()
    for number in range(64):
        block = number.to_bytes(2, "big") * 32_768
        hash_.update(block)
        await stream.send_all(block)
    await stream.aclose()
    await eventually(lambda: bool(digests), timeout=seconds + 10)
    assert digests == [hash_.digest()]
    assert len(a.peers()) == 1


async def check_large_transfer(a: Overlay, b: Overlay) -> None:
    """Megabytes arrive whole and in order, whatever the sizes of writes and reads."""
    total = 8 * 2**20
    digests: list[bytes] = []

    async def digest(stream: Stream) -> None:
        hash_ = hashlib.sha256()
        while piece := await stream.receive_some(10_007):
            assert len(piece) <= 10_007
            hash_.update(piece)
        digests.append(hash_.digest())
        await stream.send_all(hash_.digest())

    protocol = serve(b, "large", digest)
    await connect(a, b)
    stream = await a.open_stream(b.node_id, protocol)
    hash_, sent, size = hashlib.sha256(), 0, 1
    while sent < total:
        block = hashlib.sha256(sent.to_bytes(8, "big")).digest() * (size // 32 + 1)
        hash_.update(block)
        await stream.send_all(block)
        sent += len(block)
        size = size * 3 % 1_500_007 + 1
    await stream.send_eof()
    assert await receive_all(stream) == hash_.digest()
    await stream.aclose()
