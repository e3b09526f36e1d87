"""What goes out to one gossip peer: a bounded queue, and the task's work of writing it to a stream.

Nobody who puts something in ever waits. When the queue is full the oldest pure gossip is dropped (it is told
again), then the oldest message (others bring it, or sync does), and subscriptions and mesh changes last.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING

import trio

from p2p.overlay import StreamBroken

if TYPE_CHECKING:
    from p2p.broadcast.wire import Rpc
    from p2p.identity import NodeId
    from p2p.overlay import Stream

CAPACITY = 64
"""RPCs. Nearly all are below 10 kB; an answer to IWANT may have 24 kB, so that a link holds 1.5 MB at most."""
WRITE_BYTES = 64 * 1024
"""Queued frames are joined up to this size: fewer writes, fewer records on the wire."""
SEND_TIMEOUT = 30.0
"""Seconds that a peer may leave its window full before its stream is given up."""

_GOSSIP, _MESSAGE, _STATE = range(3)
"""How gladly a frame is dropped."""


class SendQueue:
    """Frames for a peer, in order, at most `capacity`."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._frames: deque[tuple[int, bytes]] = deque()

    def __len__(self) -> int:
        return len(self._frames)

    def put(self, rpc: Rpc, frame: bytes) -> str | None:
        """Add a frame; return which counter tells of the one that had to go, if one had."""
        kind = _GOSSIP if rpc.is_gossip else _MESSAGE if rpc.publish else _STATE
        self._frames.append((kind, frame))
        if len(self._frames) <= self._capacity:
            return None
        dropped = min(range(len(self._frames)), key=lambda i: self._frames[i][0])
        kind, _ = self._frames[dropped]
        del self._frames[dropped]
        return ("dropped_gossip", "dropped_messages", "dropped_state")[kind]

    def take(self) -> bytes:
        """Return the first frames joined, about WRITE_BYTES of them; nothing if there are none."""
        taken: list[bytes] = []
        size = 0
        while self._frames and (not taken or size + len(self._frames[0][1]) <= WRITE_BYTES):
            frame = self._frames.popleft()[1]
            taken.append(frame)
            size += len(frame)
        return b"".join(taken)

    def clear(self) -> None:
        """Drop everything: what was meant for a stream that broke."""
        self._frames.clear()


class Link:
    """The outbound side of one peer."""

    def __init__(self, peer: NodeId, counters: Counter[str]) -> None:
        self.peer = peer
        self.scope = trio.CancelScope()
        """Of the task that serves this link."""
        self._queue = SendQueue()
        self._counters = counters
        self._wake = trio.Event()
        self._open = True
        self._called = trio.Event()

    def __repr__(self) -> str:
        return f"<Link to {self.peer}, {len(self._queue)} queued>"

    def put(self, rpc: Rpc, frame: bytes) -> None:
        """Queue a frame; drop one if there are too many, or this one if the stream is being made anew."""
        if not self._open:
            self._counters["dropped_broken"] += 1
            return
        dropped = self._queue.put(rpc, frame)
        if dropped is not None:
            self._counters[dropped] += 1
        self._wake.set()

    def reopen(self) -> None:
        """Queue again, before a stream is made anew; the next put should greet the peer."""
        self._queue.clear()
        self._open = True

    def call(self) -> None:
        """Note that the peer has opened a stream to us, so that it will take one from us too."""
        self._called.set()

    async def called(self, timeout: float) -> None:
        """Wait until the peer calls, or for `timeout` seconds."""
        with trio.move_on_after(timeout):
            await self._called.wait()

    async def pump(self, stream: Stream) -> None:
        """Write what is queued until the stream breaks. Raises StreamBroken, always."""
        self._called = trio.Event()
        reason = ""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, stream)
                nursery.start_soon(self._watch, stream)
        except* StreamBroken as group:
            reason = str(group.exceptions[0])
        finally:
            self._open = False
            stream.reset()
        raise StreamBroken(reason)

    async def _write(self, stream: Stream) -> None:
        while True:
            while data := self._queue.take():
                with trio.move_on_after(SEND_TIMEOUT) as patience:
                    await stream.send_all(data)
                if patience.cancelled_caught:
                    raise StreamBroken(f"{self.peer} has not read for {SEND_TIMEOUT:g} s")
            self._wake = trio.Event()
            await self._wake.wait()

    async def _watch(self, stream: Stream) -> None:
        """Notice a reset while there is nothing to write. What a peer says here is nothing to us."""
        while await stream.receive_some():
            pass
