"""What tests of overlays and protocols say to each other, and how they wait for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from p2p.overlay import StreamBroken, protocol_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from p2p.overlay import Overlay, Stream, StreamHandler

MAX_UNREAD_BYTES = 32 * 2**20
"""What a sender may push into a reader that does not read, all buffers on the way included."""


async def connect(a: Overlay, b: Overlay) -> None:
    """Connect `a` to `b` and wait until both know."""
    await a.connect(b.listen_addresses()[0])
    await eventually(lambda: any(peer.node_id == a.node_id for peer in b.peers()))


def serve(overlay: Overlay, name: str, handler: StreamHandler) -> str:
    """Serve `handler` under a protocol id made of `name`; returns the id."""
    protocol = protocol_id(overlay.network, f"check/{name}", 1)
    overlay.serve(protocol, handler)
    return protocol


async def echo(stream: Stream) -> None:
    """Send back what comes, until the end."""
    while data := await stream.receive_some():
        await stream.send_all(data)


async def ask(stream: Stream, question: bytes) -> bytes:
    """Send `question`, finish, and return all that comes back."""
    answer = bytearray()

    async def receive() -> None:
        answer.extend(await receive_all(stream))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await stream.send_all(question)
        await stream.send_eof()
    await stream.aclose()
    return bytes(answer)


async def receive_all(stream: Stream) -> bytes:
    """Return all that comes until the end."""
    data = bytearray()
    while piece := await stream.receive_some():
        data += piece
    return bytes(data)


async def send_forever(stream: Stream) -> None:
    """Send until it fails."""
    while True:
        await stream.send_all(bytes(1024))


async def send_now_and_then(stream: Stream) -> None:
    """Send a little, again and again, until it fails."""
    while True:
        await stream.send_all(b"still there?")
        await trio.sleep(0.05)


async def broken(use: Callable[[], Awaitable[object]]) -> None:
    """Assert that `use` raises StreamBroken."""
    try:
        await use()
    except StreamBroken:
        return
    raise AssertionError("the stream is not broken")


async def eventually(condition: Callable[[], bool], timeout: float = 10.0) -> None:
    """Wait until `condition` holds. Raises `trio.TooSlowError`."""
    with trio.fail_after(timeout):
        while not condition():  # noqa: ASYNC110 - an overlay has no event for every condition
            await trio.sleep(0.005)


async def settled(value: Callable[[], int], limit: int) -> None:
    """Wait until `value` has stopped to grow, below `limit`."""
    before = -1
    while value() != before:
        before = value()
        assert before <= limit, f"{before} bytes went out to a reader that does not read"
        await trio.sleep(0.5)
