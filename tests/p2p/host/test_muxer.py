"""The connection's writer and the bounded buffer, on virtual time and without a connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from p2p.host.muxer import MAX_BUFFERED_BYTES, WRITE_TIMEOUT, FrameWriter, ReceiveBuffer, WindowViolated
from p2p.overlay import StreamBroken
from p2p.testing.conformance import eventually

if TYPE_CHECKING:
    from trio.testing import MockClock


class Wire:
    """A connection that takes its time, and notes what was written whole."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.hung = False
        self.pace = 1.0
        self.writer = FrameWriter(hang=self.hang)

    def hang(self) -> None:
        self.hung = True

    async def write(self, text: str) -> None:
        await trio.sleep(self.pace)
        if text == "bad":
            raise OSError("the wire is cut")
        self.written.append(text)


async def test_jobs_are_done_whole_and_in_order_whoever_gives_up(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    wire = Wire()
    nursery.start_soon(wire.writer.run)
    first = wire.writer.submit(lambda: wire.write("a"))
    with trio.move_on_after(0.5) as scope:
        await first.finished()
    assert scope.cancelled_caught
    await wire.writer.submit(lambda: wire.write("b")).finished()
    assert wire.written == ["a", "b"]


async def test_a_job_that_fails_is_a_broken_stream_and_the_next_is_tried(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    wire = Wire()
    nursery.start_soon(wire.writer.run)
    bad, good = wire.writer.submit(lambda: wire.write("bad")), wire.writer.submit(lambda: wire.write("c"))
    with pytest.raises(StreamBroken, match="the wire is cut"):
        await bad.finished()
    await good.finished()
    assert not wire.hung


async def test_a_peer_that_does_not_read_is_given_up(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    wire = Wire()
    wire.pace = WRITE_TIMEOUT + 1
    nursery.start_soon(wire.writer.run)
    with pytest.raises(StreamBroken, match="not read for 30 s"):
        await wire.writer.submit(lambda: wire.write("slow")).finished()
    assert wire.hung


async def test_what_is_left_over_fails_and_so_does_what_comes_late(autojump_clock: MockClock) -> None:
    wire = Wire()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wire.writer.run)
        jobs = [wire.writer.submit(lambda: wire.write("x")) for _ in range(3)]
        await eventually(lambda: len(wire.written) == 1)
        nursery.cancel_scope.cancel()
    jobs.append(wire.writer.submit(lambda: wire.write("late")))
    await jobs[0].finished()
    for job in jobs[1:]:
        with pytest.raises(StreamBroken, match="closed"):
            await job.finished()
    assert wire.written == ["x"]


def test_a_buffer_takes_its_bound_and_no_more() -> None:
    buffer = ReceiveBuffer()
    buffer.extend(bytes(MAX_BUFFERED_BYTES))
    with pytest.raises(WindowViolated):
        buffer.extend(b"x")
    assert len(buffer) == MAX_BUFFERED_BYTES


def test_a_buffer_that_nobody_reads_drops_and_tells() -> None:
    dropped: list[int] = []
    buffer = ReceiveBuffer(b"kept")
    buffer.discarded = dropped.append
    buffer.extend(bytes(2 * MAX_BUFFERED_BYTES))
    assert (bytes(buffer), dropped) == (b"kept", [2 * MAX_BUFFERED_BYTES])
