"""`YamuxStream`: the state of one yamux stream: what it may send, what it has received, how it ends.

Sans-IO; changed by `yamux.Yamux` alone, read by the driver. Received data is kept as it came, so that reading
costs one copy; what is small is gathered, so that a peer who sends single bytes cannot make each cost a record.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from p2p.session.budget import MemoryBudget
from p2p.session.frames import INITIAL_WINDOW

if TYPE_CHECKING:
    from p2p.metrics import Traffic

_KEPT_WHOLE_BYTES = 16_384
"""Payload from which a view of its record is kept. It then pins at most twice its size."""
_GATHERED_BYTES = 65_536
"""Size to which small payloads are gathered."""


class YamuxStream:
    """One end of a stream in the core."""

    __slots__ = (
        "ack_owed",
        "acknowledged",
        "budget",
        "buffer",
        "buffered",
        "consumed",
        "credited_at",
        "deadline",
        "discarding",
        "failure",
        "fin_sent",
        "fin_wanted",
        "id",
        "in_turn",
        "inbound",
        "over",
        "queue",
        "queued",
        "receive_window",
        "remote_finished",
        "send_window",
        "syn_owed",
        "traffic",
        "urgent",
        "waits",
        "window",
    )

    def __init__(
        self, stream_id: int, budget: MemoryBudget, traffic: Traffic, now: float, *, inbound: bool
    ) -> None:
        self.id = stream_id
        self.inbound = inbound
        self.budget = budget
        self.traffic = traffic
        """Where its bytes are counted; whoever knows what the stream is for may put another."""
        self.syn_owed = not inbound
        self.ack_owed = inbound
        self.acknowledged = inbound
        """Whether the peer knows of the stream."""
        # Sending.
        self.send_window = INITIAL_WINDOW
        """Bytes that the peer takes beyond what is queued."""
        self.queue: deque[memoryview] = deque()
        self.queued = 0
        self.in_turn = False
        """Whether the stream waits for its turn to send."""
        self.waits = False
        """Whether a task waits for room to queue more."""
        self.urgent = False
        """Whether its turns come before those of streams that are not; changed by `Yamux.set_urgent`."""
        self.fin_wanted = self.fin_sent = False
        # Receiving.
        self.window = INITIAL_WINDOW
        """What the peer may send unread, as it was tuned."""
        self.receive_window = INITIAL_WINDOW
        """What the peer may still send now."""
        self.buffer: deque[memoryview | bytearray] = deque()
        self.buffered = 0
        self.consumed = 0
        """Bytes read since credit was given last."""
        self.credited_at = now
        self.remote_finished = False
        # The end.
        self.discarding = False
        """Whether what comes is dropped: the application has closed the stream."""
        self.deadline: float | None = None
        """When a closed stream whose peer does not finish is reset."""
        self.failure: str | None = None
        """Why the stream broke."""
        self.over = False
        """Whether the connection has forgotten the stream."""

    def __repr__(self) -> str:
        return f"<YamuxStream {self.id} {'in' if self.inbound else 'out'}{' over' if self.over else ''}>"

    @property
    def finished(self) -> bool:
        """Return whether both ends have finished and everything was read."""
        return self.fin_sent and self.remote_finished and not self.buffered

    def keep(self, payload: memoryview, record_bytes: int) -> None:
        """Buffer a payload that arrived in a record of `record_bytes`."""
        size = len(payload)
        if size >= _KEPT_WHOLE_BYTES and size * 2 >= record_bytes:
            self.buffer.append(payload)
        else:
            last = self.buffer[-1] if self.buffer else None
            if type(last) is bytearray and len(last) < _GATHERED_BYTES:
                last += payload
            else:
                self.buffer.append(bytearray(payload))
        self.buffered += size
        self.budget.held += size

    def take(self, max_bytes: int) -> bytes:
        """Remove and return at most `max_bytes` of what is buffered, whole payloads where they fit."""
        buffer = self.buffer
        first = buffer[0]
        if len(first) > max_bytes:
            data = bytes(first[:max_bytes])
            if type(first) is bytearray:
                del first[:max_bytes]
            else:
                buffer[0] = first[max_bytes:]
        else:
            pieces, size = [buffer.popleft()], len(first)
            while buffer and size + len(buffer[0]) <= max_bytes:
                size += len(buffer[0])
                pieces.append(buffer.popleft())
            data = bytes(first) if len(pieces) == 1 else b"".join(pieces)
        self.buffered -= len(data)
        self.budget.held -= len(data)
        return data

    def drop_buffer(self) -> int:
        """Forget what is buffered; return how much it was."""
        dropped, self.buffered = self.buffered, 0
        self.buffer.clear()
        self.budget.held -= dropped
        return dropped

    def leave_budget(self) -> None:
        """Count what is buffered no longer: nobody may ever read it, now that the connection is gone."""
        self.budget.held -= self.buffered
        self.budget = MemoryBudget(0)

    def drop_queue(self) -> int:
        """Forget what is queued to send; return how much it was."""
        dropped, self.queued = self.queued, 0
        self.queue.clear()
        return dropped
