"""yamux (`/yamux/1.0.0`) as a sans-IO core: plaintext in, plaintext out, `now` an argument.

    core = Yamux(initiator=True, budget=budget, now=0.0)
    stream = core.open_stream(now)
    core.queue(stream, memoryview(b"hello"))
    pieces, size = core.data_to_send(LIMIT)
    core.receive(plaintext, now)          # fills streams; core.accepted and core.news say what changed

Receive windows are enforced: who sends beyond them is cut off. They grow while they are read in less than four
round trips each, as long as the memory budget allows. Streams with something to send take turns, a frame each; the
urgent ones first, but of eight frames one is left to the others.
Everything a peer can make grow is bounded. Knows no tasks: `connection` and `stream` are its driver.

Errors: `ProtocolError` from `receive` alone (then `abort_frame` is what to send last), `SessionEnded` from `tick`,
`SessionEnded` and `TooManyStreams` from `open_stream`.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

import msgspec

from p2p.metrics import Traffic
from p2p.session.errors import ProtocolError, SessionEnded, TooManyStreams
from p2p.session.flow import YamuxStream
from p2p.session.frames import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    HEADER,
    HEADER_BYTES,
    INITIAL_WINDOW,
    NORMAL,
    PING,
    PROTOCOL_ERROR,
    RST,
    SYN,
    WINDOW_UPDATE,
    frame,
)
from p2p.session.records import RECORD_BYTES

if TYPE_CHECKING:
    from p2p.session.budget import MemoryBudget

QUEUE_BYTES = 4 * (RECORD_BYTES - HEADER_BYTES)
"""What a stream may have queued to send: four full frames."""
LOW_QUEUE_BYTES = QUEUE_BYTES // 2
"""Where a stream that waits to queue more is told."""
MAX_CONTROL_BYTES = 65_536
"""Of frames without payload that wait to be sent: a peer that causes more does not read, and is cut off."""
MAX_ANSWERS = 4096
"""Pings and refused streams of one second: who causes more is cut off, whether it reads the answers or not."""
SESSION_QUEUE_BYTES = 2**20
"""What all streams of a session may have queued to send, before each is held to `LEAST_QUEUE_BYTES`. A peer that
opens streams, asks, and reads nothing would have each of them filled otherwise."""
LEAST_QUEUE_BYTES = 4096
FRAMES_AT_A_TIME = 256
"""Frames taken in one step, less than a millisecond's work: a record holds 5,000 empty ones, and a peer that sends
nothing else must not keep the other sessions waiting."""
_LEAST_ROOM_BYTES = 4096
"""Room in a record below which a frame is not fitted into it but runs over to the next."""
MAX_CREDIT_BYTES = 2 * 2**20
"""Credit is given for half a window, or this much: half of a large one could not keep a long link full."""
_GROWING_ROUND_TRIPS = 4
_URGENT_IN_A_ROW = 7
"""Frames of urgent streams after which another one gets its turn."""


class YamuxSettings(msgspec.Struct, frozen=True):
    """Limits and times of one connection."""

    max_inbound_streams: int = 256
    """Streams that the peer may have open; further ones are reset."""
    max_outbound_streams: int = 1024
    max_window: int = 32 * 2**20
    """Bytes that a stream's receive window may grow to: 32 MiB are 335 MB/s over 100 ms."""
    ping_interval: float = 30.0
    """Seconds between pings, which measure the round trip and show that the peer is alive."""
    ping_timeout: float = 20.0
    """Seconds of silence after a ping until the peer counts as dead."""
    linger: float = 60.0
    """Seconds that a closed stream waits for the peer to finish before it is reset."""


class Yamux:
    """One end of a connection.

    Args:
        initiator: whether this end began the session; its streams have odd numbers.
        budget: the node's memory for receive windows.
        now: seconds; every later `now` is on the same clock.
    """

    def __init__(
        self,
        *,
        initiator: bool,
        budget: MemoryBudget,
        now: float,
        settings: YamuxSettings = YamuxSettings(),  # noqa: B008 - frozen
    ) -> None:
        self.settings = settings
        self.budget = budget
        self.traffic = Traffic()
        """Of streams for which nobody has put another."""
        self.streams: dict[int, YamuxStream] = {}
        self.accepted: deque[YamuxStream] = deque()
        """Streams that the peer opened, for the driver to take. At most `max_inbound_streams`."""
        self.news: dict[YamuxStream, None] = {}
        """Streams of which something changed that a task may wait for; the driver clears it."""
        self.queued = 0
        """Bytes queued on all streams together."""
        self.rtt: float | None = None
        """Seconds of a round trip, smoothed."""
        self.least_rtt: float | None = None
        self.going_away = False
        """Whether this end takes no new streams."""
        self.remote_gone: int | None = None
        """What the peer's GO_AWAY said."""
        self._parity = 1 if initiator else 0
        self._next_id = 1 if initiator else 2
        self.unacknowledged = 0
        """Streams of this end that the peer has not acknowledged."""
        self._inbound = self._outbound = 0
        self._turns: deque[YamuxStream] = deque()
        self._urgent_turns: deque[YamuxStream] = deque()
        self._urgent_in_a_row = 0
        self._lingering: deque[YamuxStream] = deque()
        self._control = bytearray()
        self._header = bytearray()
        self._body = 0
        self._body_stream: YamuxStream | None = None
        self._body_flags = 0
        self._heard_at = now
        self._answers, self._answers_since = 0, now
        self._ping_value = 0
        self._ping_sent_at: float | None = None
        self._next_ping = now

    # Streams, for the driver.

    def open_stream(self, now: float) -> YamuxStream:
        """Return a new stream; the peer hears of it with the first frame.

        Raises:
            SessionEnded: either end is going away.
            TooManyStreams: this end has as many as it may.
        """
        if self.remote_gone is not None or self.going_away:
            raise SessionEnded("the session is closing and takes no new streams")
        if self._outbound >= self.settings.max_outbound_streams:
            raise TooManyStreams(f"{self._outbound} streams are open on this session, and no more may be")
        stream = YamuxStream(self._next_id, self.budget, self.traffic, now, inbound=False)
        self._next_id += 2
        self._outbound += 1
        self.unacknowledged += 1
        self.streams[stream.id] = stream
        return stream

    def room(self, stream: YamuxStream) -> int:
        """Return how many bytes `queue` would take."""
        crowded = self.queued >= SESSION_QUEUE_BYTES or self.budget.crowded
        most = LEAST_QUEUE_BYTES if crowded else QUEUE_BYTES
        return max(0, min(stream.send_window, most - stream.queued))

    def queue(self, stream: YamuxStream, data: memoryview) -> int:
        """Queue as much of `data` as the window and the queue have room for; return how much.

        `data` must not change afterwards. All that is queued will be sent, whatever becomes of the caller.
        """
        size = min(len(data), self.room(stream))
        if size > 0:
            stream.queue.append(data[:size])
            stream.queued += size
            stream.send_window -= size
            self.queued += size
            self.budget.queued += size
            stream.traffic.sent += size
            self._take_turn(stream)
        return size

    def set_urgent(self, stream: YamuxStream, urgent: bool) -> None:
        """Say whether the stream's frames go before those of streams that are not urgent."""
        if stream.urgent == urgent:
            return
        if stream.in_turn:
            self._turns_of(stream).remove(stream)
        stream.urgent = urgent
        if stream.in_turn:
            self._turns_of(stream).append(stream)

    def announce(self, stream: YamuxStream) -> None:
        """Tell the peer of a stream (SYN or ACK) if no frame has; otherwise its first data does."""
        if stream.syn_owed or stream.ack_owed:
            self._control += frame(WINDOW_UPDATE, self._owed_flags(stream), stream.id, 0)

    def take(self, stream: YamuxStream, max_bytes: int, now: float) -> bytes:
        """Return what `stream` has received, at most `max_bytes`; gives the peer credit for it when it is due."""
        data = stream.take(max_bytes)
        stream.traffic.received += len(data)
        self._consumed(stream, len(data), now)
        return data

    def finish(self, stream: YamuxStream) -> None:
        """Send FIN after what is queued."""
        if not stream.fin_wanted and not stream.over:
            stream.fin_wanted = True
            self._take_turn(stream)

    def close(self, stream: YamuxStream, now: float) -> None:
        """Finish, and drop what comes from now on. A peer that does not finish in time is reset by `tick`."""
        if stream.over or stream.discarding:
            return
        self.finish(stream)
        stream.discarding = True
        self._consumed(stream, stream.drop_buffer(), now)
        if not stream.over and not stream.remote_finished:
            stream.deadline = now + self.settings.linger
            self._lingering.append(stream)

    def reset(self, stream: YamuxStream, reason: str = "this end reset the stream") -> None:
        """Break the stream off: what is queued and what was received is dropped."""
        if stream.over:
            return
        if not stream.syn_owed:
            self.announce(stream)
            self._control += frame(WINDOW_UPDATE, RST, stream.id, 0)
        self._break(stream, reason)

    # The connection, for the driver.

    def precede(self, data: bytes) -> None:
        """Have `data`, which is no frame, go out before the first one: the end of the negotiation."""
        self._control[:0] = data

    def receive(self, data: bytes | memoryview, now: float) -> int:
        """Take plaintext; what changed is in `accepted` and `news`.

        Returns:
            How much was taken: all, or up to the end of `FRAMES_AT_A_TIME` frames. The caller brings the rest when
            others had their turn.

        Raises:
            ProtocolError: the peer broke the rules. The connection is to be ended.
        """
        self._heard_at = now
        view, at, end = memoryview(data), 0, len(data)
        frames = 0
        while True:
            if self._body:
                size = min(self._body, end - at)
                if size:
                    self._deliver(view[at : at + size], end, now)
                    at += size
                    self._body -= size
                if self._body:
                    return end
                if self._body_stream is not None:
                    self._flags_after(self._body_stream, self._body_flags)
                    self._body_stream = None
            if frames == FRAMES_AT_A_TIME:
                return at
            if self._header or end - at < HEADER_BYTES:
                missing = HEADER_BYTES - len(self._header)
                self._header += view[at : at + missing]
                at += missing
                if len(self._header) < HEADER_BYTES:
                    return end
                fields = HEADER.unpack(self._header)
                self._header.clear()
            else:
                fields = HEADER.unpack_from(data, at)
                at += HEADER_BYTES
            frames += 1
            self._frame(fields, now)
            if len(self._control) > MAX_CONTROL_BYTES:
                raise ProtocolError("the peer causes answers faster than it reads them")

    def has_data(self) -> bool:
        """Return whether `data_to_send` has anything."""
        return bool(self._control or self._turns or self._urgent_turns)

    def data_to_send(self, limit: int) -> tuple[list[bytes | memoryview], int]:
        """Return what to send next, about `limit` bytes at most, in pieces to be joined, and its size.

        Frames without payload come first. Data is cut so that a frame ends with its record.
        """
        pieces: list[bytes | memoryview] = []
        size = 0
        if self._control:
            pieces.append(bytes(self._control))
            size = len(self._control)
            self._control.clear()
        while size < limit and (stream := self._next_turn()) is not None:
            if stream.queued:
                room = RECORD_BYTES - size % RECORD_BYTES - HEADER_BYTES
                if room < _LEAST_ROOM_BYTES:
                    room = RECORD_BYTES - HEADER_BYTES
                size += self._data_frame(stream, room, pieces)
            if stream.queued:
                self._turns_of(stream).append(stream)
                continue
            stream.in_turn = False
            if stream.fin_wanted and not stream.fin_sent:
                if stream.syn_owed or stream.ack_owed:  # apart: py-libp2p does not see a FIN beside an ACK
                    pieces.append(frame(WINDOW_UPDATE, self._owed_flags(stream), stream.id, 0))
                    size += HEADER_BYTES
                pieces.append(frame(WINDOW_UPDATE, FIN, stream.id, 0))
                size += HEADER_BYTES
                stream.fin_sent = True
                self._forget_if_finished(stream)
        return pieces, size

    def ping_soon(self, now: float) -> None:
        """Have the next `tick` ping, whenever one was due: there is reason to doubt that the peer is there."""
        self._next_ping = now

    def next_tick(self) -> float:
        """Return when `tick` is due."""
        due = self._next_ping
        if self._ping_sent_at is not None:
            due = min(due, max(self._ping_sent_at, self._heard_at) + self.settings.ping_timeout)
        if self._lingering:
            due = min(due, self._lingering[0].deadline or math.inf)
        return due

    def tick(self, now: float) -> None:
        """Do what is due: ping, and reset closed streams that their peer does not finish.

        Raises:
            SessionEnded: the peer has been silent since a ping for too long.
        """
        sent_at = self._ping_sent_at
        if sent_at is not None and now >= max(sent_at, self._heard_at) + self.settings.ping_timeout:
            if self._heard_at < sent_at:
                raise SessionEnded(f"the peer has not answered for {now - sent_at:.0f} s: it is gone")
            self._ping_sent_at = None  # it talks, though it does not answer pings
        if now >= self._next_ping:
            self._next_ping = now + self.settings.ping_interval
            if self._ping_sent_at is None:
                self._ping_sent_at = now
                self._ping_value = self._ping_value + 1 & 0xFFFFFFFF
                self._control += frame(PING, SYN, 0, self._ping_value)
        while self._lingering and (self._lingering[0].deadline or 0.0) <= now:
            self.reset(self._lingering.popleft(), "the peer did not finish a stream that was closed")

    def go_away(self) -> None:
        """Take no new streams and tell the peer; streams that are open go on."""
        if not self.going_away:
            self.going_away = True
            self._control += frame(GO_AWAY, 0, 0, NORMAL)

    @staticmethod
    def abort_frame() -> bytes:
        """Return what to send last after a `ProtocolError`."""
        return frame(GO_AWAY, 0, 0, PROTOCOL_ERROR)

    def end(self, reason: str) -> None:
        """Break all streams, because the connection is gone; what was received can still be read."""
        for stream in list(self.streams.values()):
            self._break(stream, reason, keep_buffer=True)
        self._control.clear()
        self._turns.clear()
        self._urgent_turns.clear()
        self._lingering.clear()
        self.accepted.clear()

    # What comes in.

    def _frame(self, fields: tuple[int, ...], now: float) -> None:
        version, kind, flags, stream_id, value = fields
        if version != 0 or kind > GO_AWAY or flags > 15:
            raise ProtocolError("the peer does not speak yamux, or frames were lost")
        if kind <= WINDOW_UPDATE:
            if stream_id == 0:
                raise ProtocolError("the peer sent data on stream 0, which is the connection itself")
            stream = self.streams.get(stream_id)
            if flags & SYN:
                stream = self._accept(stream_id, stream, now)
            elif stream is None and stream_id & 1 == self._parity and stream_id >= self._next_id:
                raise ProtocolError("the peer answered on a stream that was never opened")
            if flags & ACK and stream is not None and not stream.acknowledged:
                stream.acknowledged = True
                self.unacknowledged -= 1
                self.news[stream] = None
            if kind == DATA:
                self._data_header(stream, flags, value)
            else:
                if stream is not None and value:
                    stream.send_window += value
                    if stream.send_window > 0xFFFFFFFF:
                        raise ProtocolError("the peer opened a window beyond 2^32 bytes")
                    self.news[stream] = None
                if stream is not None:
                    self._flags_after(stream, flags)
        elif stream_id:
            raise ProtocolError("the peer sent a ping or a go-away on a stream")
        elif kind == PING:
            self._ping(flags, value, now)
        else:
            self.remote_gone = value

    def _accept(self, stream_id: int, known: YamuxStream | None, now: float) -> YamuxStream | None:
        if known is not None or stream_id & 1 == self._parity:
            raise ProtocolError("the peer opened a stream with a number that is not its to use")
        most = self.settings.max_inbound_streams
        full = self._inbound >= most or len(self.accepted) >= most  # also when each was reset at once
        if full or self.going_away or self.budget.exhausted:
            self._answer(frame(WINDOW_UPDATE, RST, stream_id, 0), now)
            return None
        stream = YamuxStream(stream_id, self.budget, self.traffic, now, inbound=True)
        self._inbound += 1
        self.streams[stream_id] = stream
        self.accepted.append(stream)
        return stream

    def _data_header(self, stream: YamuxStream | None, flags: int, size: int) -> None:
        # A frame may be as large as the window: js-libp2p fills it with one, go-libp2p cuts at 64 KiB, rust-libp2p
        # at 16 KiB. Payload is taken as it comes, so size costs nothing; beyond any window it is no frame of yamux.
        if size > self.settings.max_window:
            raise ProtocolError(f"the peer announced a frame of {size} bytes")
        if stream is not None and size:
            if stream.remote_finished:
                raise ProtocolError("the peer sent data on a stream that it had finished")
            if size > stream.receive_window:
                raise ProtocolError(
                    f"the peer sent {size} bytes into a window of {stream.receive_window}: it ignores windows"
                )
            stream.receive_window -= size
        self._body = size
        self._body_stream, self._body_flags = stream, flags
        if not size and stream is not None:
            self._body_stream = None
            self._flags_after(stream, flags)

    def _deliver(self, payload: memoryview, record_bytes: int, now: float) -> None:
        stream = self._body_stream
        if stream is None or stream.over:
            return
        if stream.discarding:
            self._consumed(stream, len(payload), now)
        else:
            stream.keep(payload, record_bytes)
            self.news[stream] = None

    def _flags_after(self, stream: YamuxStream, flags: int) -> None:
        if flags & RST:
            self._break(stream, "the peer reset the stream")
        elif flags & FIN and not stream.remote_finished:
            stream.remote_finished = True
            self.news[stream] = None
            self._forget_if_finished(stream)

    def _ping(self, flags: int, value: int, now: float) -> None:
        if flags & SYN:
            self._answer(frame(PING, ACK, 0, value), now)
        elif flags & ACK and value == self._ping_value and self._ping_sent_at is not None:
            sample = max(now - self._ping_sent_at, 1e-6)
            self._ping_sent_at = None
            self.rtt = sample if self.rtt is None else 0.75 * self.rtt + 0.25 * sample
            self.least_rtt = sample if self.least_rtt is None else min(sample, self.least_rtt)

    def _answer(self, answer: bytes, now: float) -> None:
        if now - self._answers_since >= 1.0:
            self._answers, self._answers_since = 0, now
        self._answers += 1
        if self._answers > MAX_ANSWERS:
            raise ProtocolError(f"the peer causes more than {MAX_ANSWERS} answers a second")
        self._control += answer

    # Windows.

    def _consumed(self, stream: YamuxStream, size: int, now: float) -> None:
        if stream.over:
            return
        if stream.remote_finished:
            self._forget_if_finished(stream)
            return
        stream.consumed += size
        if stream.consumed < min(stream.window // 2, MAX_CREDIT_BYTES):
            return
        self._tune(stream, now)
        credit = stream.window - stream.receive_window - stream.buffered
        stream.consumed = 0
        stream.credited_at = now
        if credit > 0:
            stream.receive_window += credit
            self._control += frame(WINDOW_UPDATE, self._owed_flags(stream), stream.id, credit)

    def _tune(self, stream: YamuxStream, now: float) -> None:
        """Double the window if half of it would be read within some round trips; halve it when memory is tight.

        A reader of r bytes a second needs a window above r * rtt not to wait for credit; it gets up to 8 times that.
        """
        window = stream.window
        if self.budget.tight:
            if window > INITIAL_WINDOW:
                stream.window = window // 2
                self.budget.release(window // 2)
        elif (
            self.rtt is not None
            and not stream.discarding
            and window * 2 <= self.settings.max_window
            and (now - stream.credited_at) * window < 2 * stream.consumed * _GROWING_ROUND_TRIPS * self.rtt
            and self.budget.reserve(window)
        ):
            stream.window = window * 2

    # What goes out.

    def _take_turn(self, stream: YamuxStream) -> None:
        if not stream.in_turn:
            stream.in_turn = True
            self._turns_of(stream).append(stream)

    def _turns_of(self, stream: YamuxStream) -> deque[YamuxStream]:
        return self._urgent_turns if stream.urgent else self._turns

    def _next_turn(self) -> YamuxStream | None:
        if self._urgent_turns and (self._urgent_in_a_row < _URGENT_IN_A_ROW or not self._turns):
            self._urgent_in_a_row += bool(self._turns)
            return self._urgent_turns.popleft()
        self._urgent_in_a_row = 0
        return self._turns.popleft() if self._turns else None

    def _data_frame(self, stream: YamuxStream, room: int, pieces: list[bytes | memoryview]) -> int:
        """Append a frame of at most `room` bytes of payload; return its size."""
        size = min(stream.queued, room)
        pieces.append(frame(DATA, self._owed_flags(stream), stream.id, size))
        left, queue = size, stream.queue
        while left:
            first = queue[0]
            if len(first) <= left:
                pieces.append(queue.popleft())
                left -= len(first)
            else:
                pieces.append(first[:left])
                queue[0] = first[left:]
                left = 0
        was = stream.queued
        stream.queued -= size
        self.queued -= size
        self.budget.queued -= size
        if stream.queued <= LOW_QUEUE_BYTES < was or (stream.waits and not stream.queued):
            stream.waits = False
            self.news[stream] = None
        return HEADER_BYTES + size

    @staticmethod
    def _owed_flags(stream: YamuxStream) -> int:
        flags = SYN * stream.syn_owed | ACK * stream.ack_owed
        stream.syn_owed = stream.ack_owed = False
        return flags

    # The end of a stream.

    def _forget_if_finished(self, stream: YamuxStream) -> None:
        if stream.finished:
            self._forget(stream)

    def _break(self, stream: YamuxStream, reason: str, *, keep_buffer: bool = False) -> None:
        if stream.over:
            return
        dropped = stream.drop_queue()
        self.queued -= dropped
        self.budget.queued -= dropped
        if keep_buffer and not stream.discarding:
            stream.leave_budget()
        else:
            stream.drop_buffer()
            stream.remote_finished = False  # its end is not one that the application may rely on
        stream.failure = reason
        self._forget(stream)

    def _forget(self, stream: YamuxStream) -> None:
        stream.over = True
        self.news[stream] = None
        del self.streams[stream.id]
        if stream.inbound:
            self._inbound -= 1
        else:
            self._outbound -= 1
            self.unacknowledged -= not stream.acknowledged
        if stream.window > INITIAL_WINDOW:
            self.budget.release(stream.window - INITIAL_WINDOW)
        if stream.in_turn:
            self._turns_of(stream).remove(stream)
            stream.in_turn = False
        if stream.deadline is not None and stream in self._lingering:
            self._lingering.remove(stream)
