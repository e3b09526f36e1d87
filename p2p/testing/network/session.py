"""Sessions and streams in memory: reliable, in order, with bounded windows, over the link model.

A segment costs the link its bytes and its latency. A sender may have `window_bytes` that the application at
the other end has not read; credit comes back over the link, as yamux's window updates do. When a link goes
down, both ends of the session see their streams break.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Protocol

import trio

from p2p.overlay import OverlayError, ProtocolRefused, StreamBroken

if TYPE_CHECKING:
    from collections.abc import Callable

    from p2p.identity import NodeId
    from p2p.testing.network.inbox import Inbox
    from p2p.testing.network.links import Links

MAX_SEGMENT_BYTES = 65_536
HEADER_BYTES = 12
"""Of a yamux frame: what opening, closing, resetting and crediting cost on the link."""


class SessionOwner(Protocol):
    """One end of a session: what a session needs of an overlay."""

    inbox: Inbox
    place: str

    @property
    def node_id(self) -> NodeId: ...

    def stream_arrived(self, stream: MemoryStream) -> bool:
        """Start serving an inbound stream; return False to refuse its protocol."""
        ...

    def session_ended(self, session: MemorySession, reason: str) -> None:
        """Forget the session; its streams are broken already."""
        ...


class MemorySession:
    """A session between two nodes; either end may open streams on it."""

    def __init__(self, dialer: SessionOwner, listener: SessionOwner, links: Links, window_bytes: int) -> None:
        self.dialer = dialer
        self.listener = listener
        self.window_bytes = window_bytes
        self.since_ns = 0
        self._ways = {
            dialer.node_id: links.direction(dialer.node_id, listener.node_id),
            listener.node_id: links.direction(listener.node_id, dialer.node_id),
        }
        self._streams: dict[NodeId, dict[MemoryStream, None]] = {dialer.node_id: {}, listener.node_id: {}}
        self._open: set[NodeId] = {dialer.node_id, listener.node_id}
        self._severed = False
        self._said = {dialer.node_id: hashlib.sha256(), listener.node_id: hashlib.sha256()}

    def other(self, end: SessionOwner) -> SessionOwner:
        """Return who is at the other end."""
        return self.listener if end is self.dialer else self.dialer

    def send(self, source: SessionOwner, size_bytes: int, deliver: Callable[[], None]) -> None:
        """Have `deliver` called at the other end when `size_bytes` sent now arrive."""
        if self._severed:
            return
        when = self._ways[source.node_id].arrival(trio.current_time(), size_bytes)
        if when is None:
            self.sever("the connection was lost")
            return
        target = self.other(source)
        target.inbox.post(when, lambda: self._deliver(target, deliver))

    def _deliver(self, target: SessionOwner, deliver: Callable[[], None]) -> None:
        if not self._severed and target.node_id in self._open:
            deliver()

    def stall(self, seconds: float) -> None:
        """Let nothing depart for some seconds, either way."""
        for way in self._ways.values():
            way.stall(trio.current_time() + seconds)

    def close(self, end: SessionOwner, reason: str) -> None:
        """End the session at one end; the other sees it when word arrives."""
        other = self.other(end)
        self.send(end, HEADER_BYTES, lambda: self._end(other, "the peer closed the session"))
        self._end(end, reason)

    def sever(self, reason: str, after: float = 0.0) -> None:
        """Lose what is on its way; both ends notice after some seconds."""
        self._severed = True
        when = trio.current_time() + after
        self.dialer.inbox.post(when, lambda: self._end(self.dialer, reason))
        self.listener.inbox.post(when, lambda: self._end(self.listener, reason))

    def _end(self, end: SessionOwner, reason: str) -> None:
        if end.node_id not in self._open:
            return
        self._open.discard(end.node_id)
        for stream in list(self._streams[end.node_id]):
            stream.fail(StreamBroken(f"the session with {stream.peer} ended: {reason}"))
        end.session_ended(self, reason)

    def note_said(self, end: SessionOwner, segment: bytes) -> None:
        """Take a segment that `end` sends on some stream into `said`."""
        self._said[end.node_id].update(segment)

    def said(self, end: SessionOwner) -> str:
        """Return a hash of all that `end` has sent on the session's streams, in the order of sending."""
        return self._said[end.node_id].hexdigest()

    def is_open(self, end: SessionOwner) -> bool:
        """Return whether `end` still holds the session."""
        return end.node_id in self._open

    async def open_stream(self, end: SessionOwner, protocol: str) -> MemoryStream:
        """Open a stream from `end`: one round trip.

        Raises:
            ProtocolRefused: the other end does not serve `protocol`.
            StreamBroken: the session died meanwhile.
        """
        stream = MemoryStream(self, end, protocol)
        remote = MemoryStream(self, self.other(end), protocol)
        stream.other, remote.other = remote, stream
        self.attach(stream)
        self.send(end, HEADER_BYTES + len(protocol), remote.arrive)
        try:
            await stream.opened()
        except BaseException:
            stream.reset()
            raise
        return stream

    def attach(self, stream: MemoryStream) -> None:
        """Have `stream` break when its end of the session does."""
        self._streams[stream.end.node_id][stream] = None

    def detach(self, stream: MemoryStream) -> None:
        """Forget a stream that is over."""
        self._streams[stream.end.node_id].pop(stream, None)

    def stream_count(self, end: SessionOwner) -> int:
        """Return how many streams `end` has open."""
        return len(self._streams[end.node_id])


class MemoryStream:
    """One end of a stream; implements `p2p.overlay.Stream`."""

    other: MemoryStream

    def __init__(self, session: MemorySession, end: SessionOwner, protocol: str) -> None:
        self.end = end
        self.protocol = protocol
        self.session = session
        self._peer = session.other(end).node_id
        self._opened = False
        self._failure: OverlayError | None = None
        self._credit = session.window_bytes
        self._owed = 0
        self._received = bytearray()
        self._peer_finished = False
        self._finished = False
        self._closed = False
        self._sending = self._receiving = False
        self._progress = trio.lowlevel.ParkingLot()

    @property
    def peer(self) -> NodeId:
        return self._peer

    def count_beside(self) -> int:
        """Return how many streams this end of the session has, this one included."""
        return self.session.stream_count(self.end)

    # What happens at this end's application.

    async def opened(self) -> None:
        """Wait until the other end has accepted."""
        while not self._opened:
            self._check()
            await self._progress.park()

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
                while not self._credit:
                    await self._progress.park()
                    self._check()
                size = min(len(rest), self._credit, MAX_SEGMENT_BYTES)
                self._credit -= size
                self._send_segment(bytes(rest[:size]))
                rest = rest[size:]
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
            while not self._received:
                self._check()
                if self._peer_finished:
                    return b""
                await self._progress.park()
            self._check()
            data = bytes(self._received[:max_bytes])
            del self._received[:max_bytes]
            self._give_credit(len(data))
            return data
        finally:
            self._receiving = False

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()
        self._check()
        self._finish()

    async def aclose(self) -> None:
        if not self._closed and self._failure is None:
            self._finish()
            self._closed = True
            self._give_credit(len(self._received))
            self._received.clear()
            self._detach_when_over()
            self._progress.unpark_all()
        await trio.lowlevel.checkpoint()

    def reset(self) -> None:
        if self._failure is None and not self._over():
            self.session.send(self.end, HEADER_BYTES, self.other.reset_arrived)
            self.fail(StreamBroken("this end reset the stream"))

    # What happens on the way.

    def arrive(self) -> None:
        """Offer a new stream to this end, and send the answer."""
        self.session.attach(self)
        self._opened = True
        if self.end.stream_arrived(self):
            self.session.send(self.end, HEADER_BYTES, self.other.accepted)
        else:
            self.fail(ProtocolRefused("refused"))
            self.session.send(self.end, HEADER_BYTES, self.other.refused)

    def accepted(self) -> None:
        """Note that the other end serves the stream."""
        self._opened = True
        self._progress.unpark_all()

    def refused(self) -> None:
        """Note that the other end does not serve the protocol."""
        self.fail(ProtocolRefused(f"{self._peer} does not serve {self.protocol}"))

    def reset_arrived(self) -> None:
        """Note that the other end broke the stream off."""
        self.fail(StreamBroken(f"{self._peer} reset the stream"))

    def fail(self, failure: OverlayError) -> None:
        """Break this end; what was not read is gone."""
        if self._failure is None and not self._over():
            self._failure = failure
            self._received.clear()
            self.session.detach(self)
            self._progress.unpark_all()

    def data_arrived(self, segment: bytes) -> None:
        """Take a segment; nobody reads what arrives after `aclose`, so its credit goes straight back."""
        if self._closed:
            self._give_credit(len(segment))
        elif self._failure is None:
            self._received += segment
            self._progress.unpark_all()

    def credited(self, count: int) -> None:
        """Note that the other end's application has read `count` bytes."""
        self._credit += count
        self._progress.unpark_all()

    def peer_finished(self) -> None:
        """Note that nothing more will come."""
        self._peer_finished = True
        self._detach_when_over()
        self._progress.unpark_all()

    def _send_segment(self, segment: bytes) -> None:
        self.session.note_said(self.end, segment)
        self.session.send(self.end, HEADER_BYTES + len(segment), lambda: self.other.data_arrived(segment))

    def _give_credit(self, count: int) -> None:
        self._owed += count
        if self._owed * 2 >= self.session.window_bytes and not self._peer_finished:
            owed, self._owed = self._owed, 0
            self.session.send(self.end, HEADER_BYTES, lambda: self.other.credited(owed))

    def _finish(self) -> None:
        if not self._finished:
            self._finished = True
            self.session.send(self.end, HEADER_BYTES, self.other.peer_finished)
            self._detach_when_over()

    def _over(self) -> bool:
        return self._finished and self._peer_finished

    def _detach_when_over(self) -> None:
        if self._over():
            self.session.detach(self)

    def _check(self) -> None:
        if self._failure is not None:
            raise type(self._failure)(*self._failure.args)
        if self._closed:
            raise trio.ClosedResourceError("this end of the stream was closed")
