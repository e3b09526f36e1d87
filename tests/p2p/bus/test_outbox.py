"""The outbox sends all of it, in order, whatever the socket takes at once."""

from __future__ import annotations

import random
import socket

import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

from p2p.bus.outbox import SEND_AHEAD_BYTES, Outbox


def socket_pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    one, other = (trio.SocketStream(trio.socket.from_stdlib_socket(end)) for end in ends)
    return one, other


async def receive_exactly(stream: trio.abc.ReceiveStream, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        data += await stream.receive_some(count - len(data))
    return bytes(data)


async def test_everything_arrives_in_order(nursery: trio.Nursery) -> None:
    near, far = socket_pair()
    outbox = Outbox(near)
    nursery.start_soon(outbox.run)
    chance = random.Random(1)
    messages = [chance.randbytes(chance.choice([1, 100, 70_000, 300_000])) for _ in range(60)]

    async def put() -> None:
        for message in messages:
            await outbox.room()
            outbox.put(message)
            await trio.lowlevel.checkpoint()

    nursery.start_soon(put)
    whole = b"".join(messages)
    assert await receive_exactly(far, len(whole)) == whole
    await outbox.flush()
    assert outbox.size == 0
    nursery.cancel_scope.cancel()
    await far.aclose()
    await near.aclose()


async def test_small_messages_leave_at_once_without_a_writer() -> None:
    near, far = socket_pair()
    outbox = Outbox(near)
    outbox.put(b"hello")
    assert outbox.size == 0
    assert await far.receive_some() == b"hello"
    await far.aclose()
    await near.aclose()


async def test_room_waits_for_the_reader(nursery: trio.Nursery) -> None:
    near, far = trio.testing.lockstep_stream_pair()
    outbox = Outbox(near)
    nursery.start_soon(outbox.run)
    outbox.put(bytes(SEND_AHEAD_BYTES))
    roomy = trio.Event()

    async def wait() -> None:
        await outbox.room()
        roomy.set()

    nursery.start_soon(wait)
    await wait_all_tasks_blocked()
    assert not roomy.is_set()
    await receive_exactly(far, SEND_AHEAD_BYTES)
    await roomy.wait()
    nursery.cancel_scope.cancel()


async def test_a_closed_outbox_holds_nobody_up() -> None:
    near, _ = trio.testing.lockstep_stream_pair()
    outbox = Outbox(near)
    outbox.put(bytes(2 * SEND_AHEAD_BYTES))
    outbox.close()
    await outbox.room()
    await outbox.flush()
    outbox.put(b"dropped")


async def test_a_broken_socket_ends_the_writer_not_the_sender(nursery: trio.Nursery) -> None:
    near, far = socket_pair()
    await far.aclose()
    outbox = Outbox(near)
    outbox.put(b"nobody reads this")
    with pytest.raises(trio.BrokenResourceError):
        await outbox.run()
    await near.aclose()
