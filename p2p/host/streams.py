"""`YamuxStream`: `p2p.overlay.Stream` on a stream of stock yamux, safe to cancel anywhere.

Reads take from the receive buffer without awaiting anything that writes; credit for what was read, data, the end
and the reset go through the connection's `FrameWriter`. The window is waited for here, because stock yamux gives
up after 5 s; it has no event for it, so that a blocked sender polls.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import trio

from p2p.host.muxer import WINDOW_BYTES, FrameWriter, Job, ReceiveBuffer
from p2p.overlay import StreamBroken

if TYPE_CHECKING:
    from p2p.identity import NodeId

CHUNK_BYTES = 65_507
"""With yamux's header, exactly one Noise message (65,535 bytes less the tag of 16)."""
FIRST_CREDIT_BYTES = 65_536
"""A stream that received less gives no credit back: most answers need none, and each costs a frame."""
_SHORTEST_POLL, _LONGEST_POLL = 0.002, 0.05


class YamuxStream:
    """One end of a stream; see `p2p.overlay.Stream` for its methods."""

    def __init__(self, muxed: Any, writer: FrameWriter, peer: NodeId) -> None:
        self._muxed = muxed
        self._connection = muxed.conn
        self._id: int = muxed.stream_id
        self._writer = writer
        self._peer = peer
        buffer = self._connection.stream_buffers.get(self._id)
        self._buffer: ReceiveBuffer = buffer if buffer is not None else ReceiveBuffer()
        self._received_bytes = 0
        self._unfinished: Job | None = None
        self._finished = False
        self._peer_finished = False
        self._closed = False
        self._reset = False
        self._sending = self._receiving = False

    @property
    def peer(self) -> NodeId:
        return self._peer

    async def send_all(self, data: bytes) -> None:
        if self._finished or self._closed:
            raise trio.ClosedResourceError("this end of the stream has finished sending")
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._sending = True
        try:
            await trio.lowlevel.checkpoint()
            self._check()
            rest = memoryview(bytes(data))
            while rest:
                window = await self._window()
                chunk = bytes(rest[: min(window, CHUNK_BYTES)])
                rest = rest[len(chunk) :]
                await self._do(self._writer.submit(functools.partial(self._muxed.write, chunk)))
        finally:
            self._sending = False

    async def receive_some(self, max_bytes: int = 65536) -> bytes:
        if self._closed:
            raise trio.ClosedResourceError("this end of the stream was closed")
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving on this stream")
        self._receiving = True
        try:
            await trio.lowlevel.checkpoint()
            while not self._buffer:
                if self._at_end():
                    return b""
                self._check()
                await self._something_happens()
            self._at_end()
            data = bytes(self._buffer[:max_bytes])
            del self._buffer[:max_bytes]
            self._give_credit(len(data))
            return data
        finally:
            self._receiving = False

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()
        self._check()
        await self._finish()

    async def aclose(self) -> None:
        if self._closed or self._reset:
            await trio.lowlevel.checkpoint()
            return
        self._closed = True
        self._at_end()
        unread = len(self._buffer)
        self._buffer.clear()
        self._buffer.discarded = self._give_credit
        self._give_credit(unread)
        self._wake()
        try:
            await self._finish()
        except StreamBroken:
            await trio.lowlevel.checkpoint()  # there is nobody left to flush to

    def reset(self) -> None:
        if self._reset or (self._finished and self._peer_finished):
            return
        self._reset = True
        self._buffer.clear()
        self._buffer.discarded = lambda _: None
        self._writer.submit(self._muxed.reset)
        self._wake()

    async def _finish(self) -> None:
        if not self._finished:
            self._finished = True
            await self._do(self._writer.submit(self._muxed.close))

    async def _window(self) -> int:
        """Wait until the peer's window is open; return how many bytes it takes."""
        await self._previous()
        pause = _SHORTEST_POLL
        while True:
            self._check()
            window: int = self._muxed.send_window
            if window > 0:
                return window
            await trio.sleep(pause)
            pause = min(pause * 2, _LONGEST_POLL)

    async def _previous(self) -> None:
        """Wait for what a cancelled call has left behind."""
        if self._unfinished is not None:
            await self._do(self._unfinished)

    async def _do(self, job: Job) -> None:
        self._unfinished = job
        await job.finished()
        self._unfinished = None

    def _at_end(self) -> bool:
        """Return whether the peer has finished, and remember it.

        Stock yamux marks the streams of a dying connection as finished too: only before that can it be told.
        """
        connection, muxed = self._connection, self._muxed
        if muxed.recv_closed and not muxed.reset_received and not connection.event_shutting_down.is_set():
            self._peer_finished = True
        return self._peer_finished and not self._reset

    def _check(self) -> None:
        if self._reset:
            raise StreamBroken("this end reset the stream")
        if self._closed:
            raise trio.ClosedResourceError("this end of the stream was closed")
        if self._connection.event_shutting_down.is_set():
            raise StreamBroken(f"the session with {self._peer} ended")
        if self._muxed.reset_received:
            raise StreamBroken(f"{self._peer} reset the stream")

    async def _something_happens(self) -> None:
        """Wait for data, the end or a reset; may return for nothing."""
        events = self._connection.stream_events
        event = events.get(self._id)
        if event is None:  # stock yamux has dropped the stream
            raise StreamBroken(f"the stream to {self._peer} is over")
        if event.is_set():  # left over from what was taken; anything new will set the new one
            events[self._id] = trio.Event()
            return
        await event.wait()

    def _wake(self) -> None:
        event = self._connection.stream_events.get(self._id)
        if event is not None:
            event.set()

    def _give_credit(self, count: int) -> None:
        """Let the peer send as much more as was read, in portions of half a window."""
        self._received_bytes += count
        muxed = self._muxed
        if self._peer_finished or self._received_bytes < FIRST_CREDIT_BYTES:
            self._forget_when_over()
            return
        credit = WINDOW_BYTES - muxed.recv_window - len(self._buffer)
        if credit * 2 >= WINDOW_BYTES:
            muxed.recv_window += credit
            self._writer.submit(functools.partial(muxed.send_window_update, credit))

    def _forget_when_over(self) -> None:
        muxed = self._muxed
        if muxed.closed and not self._buffer and self._id in self._connection.streams:
            self._writer.submit(
                functools.partial(self._connection._finalize_stream, muxed, fully_closed=True)  # noqa: SLF001
            )
