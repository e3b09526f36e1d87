"""Checks of what is cancelled half-way: the session stays whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from p2p.testing.conformance.exchanges import MAX_UNREAD_BYTES, ask, connect, echo, receive_all, serve

if TYPE_CHECKING:
    from p2p.overlay import Overlay, Stream


async def check_cancelled_read(a: Overlay, b: Overlay) -> None:
    """A read that is given up loses nothing, on its own stream or another."""
    go_on = trio.Event()

    async def wait_then_greet(stream: Stream) -> None:
        await go_on.wait()
        await stream.send_all(b"late")

    late, good = serve(b, "late", wait_then_greet), serve(b, "good", echo)
    await connect(a, b)
    stream, beside = await a.open_stream(b.node_id, late), await a.open_stream(b.node_id, good)
    for _ in range(5):
        with trio.move_on_after(0.01) as scope:
            await stream.receive_some()
        assert scope.cancelled_caught
    go_on.set()
    assert await ask(beside, b"x" * 100_000) == b"x" * 100_000
    assert await receive_all(stream) == b"late"


async def check_cancelled_write(a: Overlay, b: Overlay) -> None:
    """A write that is given up half-way breaks at most its own stream."""

    async def never_read(stream: Stream) -> None:
        await stream.send_all(b"!")
        await trio.sleep_forever()

    async def read_slowly(stream: Stream) -> None:
        while await stream.receive_some(20_000):  # noqa: ASYNC110 - it waits for nothing, it is slow
            await trio.sleep(0.001)

    stalled, slow, good = (
        serve(b, "stalled", never_read),
        serve(b, "slow", read_slowly),
        serve(b, "good", echo),
    )
    await connect(a, b)
    beside = await a.open_stream(b.node_id, good)
    for protocol in (stalled, slow, slow, slow):
        stream = await a.open_stream(b.node_id, protocol)
        with trio.move_on_after(0.05) as scope:
            await stream.send_all(bytes(MAX_UNREAD_BYTES))
        assert scope.cancelled_caught
        stream.reset()
    assert await ask(beside, b"x" * 100_000) == b"x" * 100_000
    assert len(a.peers()) == 1


async def check_cancelled_open(a: Overlay, b: Overlay) -> None:
    """Opening that is given up harms nothing."""
    protocol = serve(b, "open", echo)
    await connect(a, b)
    beside = await a.open_stream(b.node_id, protocol)
    for patience in (0.0, 0.0001, 0.001, 0.002, 0.004):
        with trio.move_on_after(patience):
            (await a.open_stream(b.node_id, protocol)).reset()
    assert await ask(beside, b"whole") == b"whole"
    assert await ask(await a.open_stream(b.node_id, protocol), b"new") == b"new"
