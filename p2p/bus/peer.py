"""`PeerBus`: the bus between nodes.

Small calls share a control stream for each peer and direction: opened by the first call, many calls at once on it
(`p2p.bus.line`), closed when it was idle. Streaming calls and large bodies have streams of their own (`p2p.bus.lone`),
so that on the control stream nothing is ever behind much else; large answers go in parts, others between them.

The caller is whom the session proved (`stream.peer`), or an alias that it has proven and that the call selects. A peer
that cannot be reached, or speaks no bus, gives NoEndpoint with the reason: SDKs look for its words ("endpoint address
not found") to decide whether to try again, and for them a provider that vanished and a service that vanished are one
thing. A session that dies under a call gives BusClosed: whether the call was carried out is then unknown, so
nothing here repeats it. A call of which nothing was sent is tried once more.

One shared stream was chosen by measurement. CPU of both ends together for a call of 1 KiB each way, on a loaded
machine (it halves on a quiet one), and what the same bytes cost on streams that are open:

    microseconds a call     shared stream   a stream each   open streams, no bus
    100 at once                        58             289                     37
    one at a time                     215             756                     90

A stream each costs what it needs to open, to agree and to close: a negotiation and six frames, a task and its scope
at each end. What is left of a call on the shared one is, by profile: a third the session, a fifth frames (see
`p2p.bus.frames`), a fifth trio, the rest routing and bookkeeping. What mattered, in order: no task, switch and cancel
scope for a call (`p2p.bus.workers`, `p2p.bus.deadlines`), frames encoded without sorting keys, messages
queued in the session without a task between, addresses judged once.

Bounds, against hostile peers: control streams of a peer, calls in work per peer and in all (`Busy`), bytes of their
requests per peer and in all (`Busy`, before they are read), seconds to say a request and to take an answer.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

import structlog
import trio

from p2p.bus import lone
from p2p.bus.api import BadContent, BusClosed, Caller, NoEndpoint, RemoteError, net_address
from p2p.bus.bounds import Held, Work
from p2p.bus.endpoints import milliseconds_until, timed_out
from p2p.bus.frames import FrameReader, Request
from p2p.bus.line import Line, NotSent
from p2p.bus.requests import LineRules
from p2p.overlay import OverlayError, PeerUnreachable, ProtocolRefused, protocol_id

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from contextlib import AbstractAsyncContextManager

    from p2p.bus.frames import Frame
    from p2p.bus.router import LocalBus
    from p2p.identity import NodeId
    from p2p.overlay import Overlay, Stream

PROTOCOL: Final = "bus"
"""The control stream."""
LONE_PROTOCOL: Final = "bus/lone"
"""A stream for one call."""
VERSION: Final = 1

LARGE_BYTES: Final = 32 * 1024
"""A request's body beyond this goes on a stream of its own, an answer's in parts of this size."""
MAX_CONTROL_FRAME_BYTES: Final = LARGE_BYTES + 32 * 1024
"""Largest frame on a control stream: a body, or the longest error, and what tells them apart."""
AHEAD_BYTES: Final = 128 * 1024
"""Bytes that wait to be sent on a control stream above which answers wait: the way of a small one past large ones."""
IDLE_SECONDS: Final = 300.0
"""A control stream without calls for so long, or up to twice as long, is closed."""

MAX_LINES_PER_PEER: Final = 4
"""Control streams of one peer; it needs one, and another while the first breaks."""
MAX_CALLS_PER_PEER: Final = 256
"""Calls of one peer that are in work at a time."""
MAX_CALLS: Final = 4096
"""Calls of all peers that are in work at a time."""
MAX_BYTES_PER_PEER: Final = 32 * 1024 * 1024
"""Bytes of one peer's requests that are held at a time."""
MAX_BYTES: Final = 256 * 1024 * 1024
"""Bytes of all peers' requests that are held at a time."""

_CALLING = LineRules(answers=False, ahead_bytes=AHEAD_BYTES, patience=lone.ANSWER_TIMEOUT, trusted=False)
_ANSWERING = LineRules(
    longest_call=lone.MAX_CALL_SECONDS,
    streams=False,
    piece_bytes=LARGE_BYTES,
    ahead_bytes=AHEAD_BYTES,
    patience=lone.ANSWER_TIMEOUT,
    trusted=False,
)

_log = structlog.get_logger("p2p.bus")


class PeerBus:
    """Carries calls to peers, and serves theirs; implements `p2p.bus.router.PeerCaller`.

    Args:
        overlay: makes and takes the streams.
        bus: answers what peers call.
    """

    def __init__(self, overlay: Overlay, bus: LocalBus) -> None:
        self._overlay = overlay
        self._bus = bus
        self._control = protocol_id(overlay.network, PROTOCOL, VERSION)
        self._lone = protocol_id(overlay.network, LONE_PROTOCOL, VERSION)
        self._lines: dict[str, _Way] = {}
        self._nursery: trio.Nursery | None = None
        self._work = Work(MAX_CALLS, MAX_BYTES)
        self._callers: dict[str, _PeerCaller] = {}

    def __repr__(self) -> str:
        return (
            f"<PeerBus of {self._bus.node_id}, {self._work.calls} calls in, of {len(self._callers)} peers, "
            f"{len(self._lines)} lines out>"
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[PeerBus]:
        """Serve peers' calls, and take the node's calls to peers, while the block is open."""
        self._overlay.serve(self._control, self._serve_line)
        self._overlay.serve(self._lone, self._serve_lone)
        self._bus.attach_peers(self)
        async with trio.open_nursery() as self._nursery:
            try:
                yield self
            finally:
                nursery, self._nursery = self._nursery, None
                nursery.cancel_scope.cancel()

    # Calls of ours.

    async def call(self, peer: str, address: str, body: bytes, *, deadline: float, acting: str = "") -> bytes:
        called = _as_called(peer, address)
        if len(body) > LARGE_BYTES:
            with trio.CancelScope(deadline=deadline):
                return await self._call_alone(peer, address, body, acting)
            raise timed_out(called)
        line = self._line_at_hand(peer) or await self._line_in_time(peer, address, deadline)
        try:
            try:
                return await line.call(address, body, deadline=deadline, acting=acting, called=called)
            except NotSent:  # once more: a peer that ends each at once is none to call
                line = await self._line_in_time(peer, address, deadline)
                return await line.call(address, body, deadline=deadline, acting=acting, called=called)
        except BusClosed:
            if line.closed.is_set():
                _raise_better(line, called)
            raise

    async def _call_alone(self, peer: str, address: str, body: bytes, acting: str) -> bytes:
        called = _as_called(peer, address)
        told = milliseconds_until(trio.current_effective_deadline())
        stream = await self._open(peer, address, self._lone)
        await lone.ask(stream, Request(0, address, body, timeout_ms=told, acting=acting), called)
        return await lone.hear(stream, called)

    @contextlib.asynccontextmanager
    async def stream(
        self, peer: str, address: str, body: bytes, *, deadline: float, acting: str = ""
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        told = milliseconds_until(min(deadline, trio.current_effective_deadline()))
        request = Request(0, address, body, streaming=True, timeout_ms=told, acting=acting)
        stream: Stream | None = None
        with trio.CancelScope(deadline=deadline):
            opened = await self._open(peer, address, self._lone)
            await lone.ask(opened, request, _as_called(peer, address))
            stream = opened
        if stream is None:
            raise timed_out(_as_called(peer, address))
        items = lone.LoneItems(stream, _as_called(peer, address))
        try:
            yield items
        finally:
            await lone.finish(stream, items.ended)

    async def _open(self, peer: str, address: str, protocol: str, *, again: bool = True) -> Stream:
        called = _as_called(peer, address)
        try:
            return await self._overlay.open_stream(peer, protocol)
        except PeerUnreachable as error:
            raise NoEndpoint(called, f"the peer cannot be reached: {error}") from error
        except ProtocolRefused as error:
            raise lone.no_bus(called, error) from error
        except OverlayError as error:
            if not again:
                raise BusClosed(
                    f"the session with {peer} broke before {called} was called: {error}"
                ) from error
        # The session had died unnoticed. Nothing was said on it yet, so that a second try repeats nothing.
        return await self._open(peer, address, protocol, again=False)

    def _line_at_hand(self, peer: str) -> Line | None:
        """Return the line to `peer`, if there is one."""
        way = self._lines.get(peer)
        if way is None or way.line is None or way.line.closed.is_set() or not self._leads_to(way, peer):
            return None
        way.used = True
        return way.line

    async def _line_in_time(self, peer: str, address: str, deadline: float) -> Line:
        with trio.CancelScope(deadline=deadline):
            return await self._line_to(peer, address)
        raise timed_out(_as_called(peer, address))

    async def _line_to(self, peer: str, address: str) -> Line:
        """Return the line to `peer`, opened if there is none; calls made meanwhile wait for the same one."""
        way = self._lines.get(peer)
        if way is None:
            way = self._lines[peer] = _Way()
        way.waiting += 1
        try:
            async with way.lock:
                line = self._line_at_hand(peer)
                if line is None:
                    stream = await self._open(peer, address, self._control)
                    way.leads_to = stream.peer
                    line = way.line = self._start_line(stream, peer, way, address)
                    way.used = True
                return line
        finally:
            way.waiting -= 1
            self._forget_unused(peer, way)

    def _start_line(self, stream: Stream, peer: str, way: _Way, address: str) -> Line:
        if self._nursery is None:
            stream.reset()
            raise NoEndpoint(_as_called(peer, address), "this node is shutting down")
        line = Line(_Channel(stream), _Deaf(), name=peer, reader=_reader(), rules=_CALLING)
        self._nursery.start_soon(self._run_line, line, peer, way)
        return line

    async def _run_line(self, line: Line, peer: str, way: _Way) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_end_when_idle, line, way)
            await line.run()
            nursery.cancel_scope.cancel()
        if way.line is line:
            way.line = None
        self._forget_unused(peer, way)

    def _forget_unused(self, peer: str, way: _Way) -> None:
        if way.line is None and not way.waiting and self._lines.get(peer) is way:
            del self._lines[peer]

    def _leads_to(self, way: _Way, peer: str) -> bool:
        """Return whether a line is to who speaks for `peer` now: an alias may have expired, or moved."""
        return way.leads_to == peer or (
            way.leads_to is not None and peer in self._overlay.aliases_of(way.leads_to)
        )

    # Calls of peers.

    async def _serve_line(self, stream: Stream) -> None:
        with self._serving(stream.peer) as caller:
            if caller.lines >= MAX_LINES_PER_PEER:
                stream.reset()
                return
            caller.lines += 1
            try:
                works = (caller.work, self._work)
                channel = _Channel(stream)
                line = Line(
                    channel, caller, name=stream.peer, reader=_reader(), rules=_ANSWERING, works=works
                )
                await line.run()
            finally:
                caller.lines -= 1

    async def _serve_lone(self, stream: Stream) -> None:
        with self._serving(stream.peer) as caller:
            held = Held(caller.work, self._work)
            try:
                await lone.serve(stream, caller, held)
            except OverlayError:
                pass  # the caller is gone; there is nobody to tell
            except BadContent as error:
                # At debug, since a hostile peer decides how often.
                _log.debug("a peer's call was no call", peer=stream.peer, error=str(error))
                stream.reset()
            finally:
                held.give_back()

    @contextlib.contextmanager
    def _serving(self, peer: NodeId) -> Iterator[_PeerCaller]:
        caller = self._callers.get(peer)
        if caller is None:
            caller = self._callers[peer] = _PeerCaller(peer, self._bus, self._overlay)
        caller.streams += 1
        try:
            yield caller
        finally:
            caller.streams -= 1
            if not caller.streams:
                self._callers.pop(peer, None)


class _Way:
    """The line to one peer, and whoever waits for it."""

    def __init__(self) -> None:
        self.line: Line | None = None
        self.leads_to: NodeId | None = None
        self.lock = trio.Lock()
        self.waiting = 0
        self.used = False


class _PeerCaller:
    """A peer that calls, and how much of its calls is in work. A `LineOwner`."""

    def __init__(self, peer: NodeId, bus: LocalBus, overlay: Overlay) -> None:
        self.work = Work(MAX_CALLS_PER_PEER, MAX_BYTES_PER_PEER)
        self.lines = 0
        self.streams = 0
        self._peer = peer
        self._caller = Caller(node_id=peer, local=False)
        self._bus = bus
        self._overlay = overlay

    async def answer(self, request: Request) -> bytes:
        return await self._bus.call_as(self._who(request), request.address, request.body)

    def answer_stream(self, request: Request) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        return self._bus.stream_as(self._who(request), request.address, request.body, timeout=request.timeout)

    def receive(self, frame: Frame) -> None:
        raise BadContent(f"a {type(frame).__name__} has no place between nodes")

    def ended(self) -> None:
        pass

    def _who(self, request: Request) -> Caller:
        acting = request.acting
        if not acting or acting == self._peer:
            return self._caller
        if acting not in self._overlay.aliases_of(self._peer):
            raise RemoteError("forbidden", f"{self._peer} has not proven that it may act as {acting}")
        return Caller(node_id=acting, local=False)


class _Deaf:
    """The owner of a line on which this end calls, and the other does not."""

    async def answer(self, request: Request) -> bytes:
        raise AssertionError("the line takes no calls")

    def answer_stream(self, request: Request) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        raise AssertionError("the line takes no calls")

    def receive(self, frame: Frame) -> None:
        raise BadContent(f"a {type(frame).__name__} has no place between nodes")

    def ended(self) -> None:
        pass


class _Channel:
    """A stream of the overlay as a line takes it: its errors are trio's, and closing it breaks it off."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        send_now = getattr(stream, "send_now", None)
        if send_now is not None:
            self.send_now = send_now

    async def send_all(self, data: bytes) -> None:
        try:
            await self._stream.send_all(data)
        except OverlayError as error:
            raise trio.BrokenResourceError(str(error)) from error

    async def receive_some(self, max_bytes: int) -> bytes:
        try:
            return await self._stream.receive_some(max_bytes)
        except OverlayError as error:
            raise trio.BrokenResourceError(str(error)) from error

    async def aclose(self) -> None:
        self._stream.reset()


def _reader() -> FrameReader:
    return FrameReader(MAX_CONTROL_FRAME_BYTES)


async def _end_when_idle(line: Line, way: _Way) -> None:
    while line.calls or (way.used and way.line is line):
        way.used = False
        await trio.sleep(IDLE_SECONDS)
    line.drop()


def _raise_better(line: Line, called: str) -> None:
    """Raise what says better than BusClosed why a line of ours has ended, if anything does."""
    failure = line.failure
    if isinstance(failure, ProtocolRefused):
        raise lone.no_bus(called, failure) from failure
    if isinstance(failure, BadContent):
        raise BadContent(f"{called} was not answered in the bus's form: {failure}") from failure


def _as_called(peer: str, address: str) -> str:
    return net_address(peer, address.removeprefix("/public/"))
