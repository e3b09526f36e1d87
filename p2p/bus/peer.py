"""`PeerBus`: the bus between nodes, one overlay stream a call.

The caller opens a stream, sends a Request and keeps its side open; the far end sends a Reply, or Items and an
End, or a Failure, and both close. Whoever breaks the stream off ends the call: a caller that gives up resets,
and the handler there is cancelled. Flow control is the stream's own. The caller is whom the session proved
(`stream.peer`); what a frame says about it is ignored.

A peer that cannot be reached, or speaks no bus, gives NoEndpoint with the reason: SDKs look for its words
("endpoint address not found") to decide whether to try again, and for them a provider that vanished and a
service that vanished are one thing. A session that dies under a call gives BusClosed: whether the call was
carried out is then unknown, so nothing here repeats it.

Bounds, against hostile peers: calls in work per peer and in all (`Busy`), bytes of their requests per peer and in
all (`Busy`, before they are read), seconds to say a request and to take an answer.
"""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Final, cast

import structlog
import trio

from p2p.bus import frames
from p2p.bus.api import BadContent, BusClosed, BusError, Busy, Caller, NoEndpoint, net_address
from p2p.bus.endpoints import milliseconds_until, timed_out
from p2p.bus.frames import End, Failure, FrameReader, Item, Reply, Request
from p2p.overlay import OverlayError, PeerUnreachable, ProtocolRefused, protocol_id

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from p2p.bus.frames import Frame
    from p2p.bus.router import LocalBus
    from p2p.identity import NodeId
    from p2p.overlay import Overlay, Stream

PROTOCOL: Final = "bus"
VERSION: Final = 1

MAX_CALLS_PER_PEER: Final = 64
"""Calls of one peer that are in work at a time."""
MAX_CALLS: Final = 1024
"""Calls of all peers that are in work at a time."""
MAX_BYTES_PER_PEER: Final = 32 * 1024 * 1024
"""Bytes of one peer's requests that are held at a time."""
MAX_BYTES: Final = 256 * 1024 * 1024
"""Bytes of all peers' requests that are held at a time."""
REQUEST_TIMEOUT: Final = 30.0
"""Seconds for a request to arrive once its stream is open."""
ANSWER_TIMEOUT: Final = 60.0
"""Seconds for an answer to be taken. Items of a streaming call may take as long as the caller likes."""
CLOSE_TIMEOUT: Final = 10.0
"""Seconds for a stream to close once its call has ended."""
MAX_CALL_SECONDS: Final = 3600.0
"""Longest that a peer's call is worked on, whatever it asks for. Streaming calls have no such end."""

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
        self._protocol = protocol_id(overlay.network, PROTOCOL, VERSION)
        self._work = _Work(MAX_CALLS, MAX_BYTES)
        self._work_of: dict[str, _Work] = {}

    def __repr__(self) -> str:
        return f"<PeerBus of {self._bus.node_id}, {self._work.calls} calls in, of {len(self._work_of)} peers>"

    def start(self) -> None:
        """Serve peers' calls, and take the node's calls to peers. The tasks are the overlay's."""
        self._overlay.serve(self._protocol, self._serve)
        self._bus.attach_peers(self)

    # Calls of ours.

    async def call(self, peer: str, address: str, body: bytes) -> bytes:
        deadline = trio.current_effective_deadline()
        stream = await self._ask(peer, Request(0, address, body, timeout_ms=milliseconds_until(deadline)))
        ended = False
        try:
            answer = await _receive(stream, FrameReader(), address)
            ended = isinstance(answer, Reply | Failure)
        finally:
            await _finish(stream, ended)
        if isinstance(answer, Failure):
            raise frames.error_of(answer)
        if not isinstance(answer, Reply):
            raise BadContent(f"{peer} answered {address} with a {type(answer).__name__}")
        return answer.body

    @contextlib.asynccontextmanager
    async def stream(
        self, peer: str, address: str, body: bytes, *, deadline: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        told = milliseconds_until(min(deadline, trio.current_effective_deadline()))
        stream: Stream | None = None
        with trio.CancelScope(deadline=deadline):
            stream = await self._ask(peer, Request(0, address, body, streaming=True, timeout_ms=told))
        if stream is None:
            raise timed_out(_as_called(peer, address))
        items = _Items(stream, address)
        try:
            yield items
        finally:
            await _finish(stream, items.ended)

    async def _ask(self, peer: str, request: Request) -> Stream:
        called = _as_called(peer, request.address)
        stream = await self._open(peer, called)
        try:
            await stream.send_all(frames.encode(request))
        except BaseException as error:
            stream.reset()
            if isinstance(error, OverlayError):
                raise BusClosed(
                    f"the session with {peer} broke while {called} was called: {error}"
                ) from error
            raise
        return stream

    async def _open(self, peer: str, called: str, *, again: bool = True) -> Stream:
        try:
            return await self._overlay.open_stream(cast("NodeId", peer), self._protocol)
        except PeerUnreachable as error:
            raise NoEndpoint(called, f"the peer cannot be reached: {error}") from error
        except ProtocolRefused as error:
            raise NoEndpoint(
                called, f"the peer speaks no bus of this network and version: {error}"
            ) from error
        except OverlayError as error:
            if not again:
                raise BusClosed(
                    f"the session with {peer} broke before {called} was called: {error}"
                ) from error
        # The session had died unnoticed. Nothing was said on it yet, so that a second try repeats nothing.
        return await self._open(peer, called, again=False)

    # Calls of peers.

    async def _serve(self, stream: Stream) -> None:
        of_peer = self._work_of.setdefault(stream.peer, _Work(MAX_CALLS_PER_PEER, MAX_BYTES_PER_PEER))
        held = _Held((of_peer, self._work))
        try:
            held.take(calls=1)
            await self._converse(stream, held)
        except Busy as refusal:
            await _refuse(stream, refusal)
        except OverlayError:
            pass  # the caller is gone; there is nobody to tell
        except BadContent as error:
            # At debug, since a hostile peer decides how often.
            _log.debug("a peer's call was no call", peer=stream.peer, error=str(error))
            stream.reset()
        finally:
            held.give_back()
            if not of_peer.calls:
                self._work_of.pop(stream.peer, None)

    async def _converse(self, stream: Stream, held: _Held) -> None:
        request: Frame | None = None
        with trio.move_on_after(REQUEST_TIMEOUT):
            request = await _receive_request(stream, held)
        if not isinstance(request, Request):
            raise BadContent(
                "no request came in time" if request is None else "it did not begin with a request"
            )
        answered = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_watch, stream, nursery.cancel_scope)
            answered = await self._answer(stream, request)
            nursery.cancel_scope.cancel()
        await _finish(stream, answered)

    async def _answer(self, stream: Stream, request: Request) -> bool:
        """Answer, and return whether the caller got all of it."""
        caller = Caller(node_id=stream.peer, local=False)
        try:
            try:
                if request.streaming:
                    await self._send_items(stream, request, caller)
                    last: Frame = End(0)
                else:
                    timeout = min(MAX_CALL_SECONDS, math.inf if request.timeout is None else request.timeout)
                    body = await self._bus.call_as(caller, request.address, request.body, timeout=timeout)
                    last = Reply(0, body)
            except BusError as error:
                last = frames.failure(0, error)
            with trio.move_on_after(ANSWER_TIMEOUT):
                await stream.send_all(frames.encode(last))
                return True
        except OverlayError:
            pass  # the caller is gone; there is nobody to tell
        return False

    async def _send_items(self, stream: Stream, request: Request, caller: Caller) -> None:
        async with self._bus.stream_as(
            caller, request.address, request.body, timeout=request.timeout
        ) as items:
            async for body in items:
                await stream.send_all(frames.encode(Item(0, body)))


class _Items:
    """The items of a streaming call, read from the stream as they are asked for."""

    def __init__(self, stream: Stream, address: str) -> None:
        self.ended = False
        self._stream = stream
        self._address = address
        self._reader = FrameReader()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self.ended:
            raise StopAsyncIteration
        frame = await _receive(self._stream, self._reader, self._address)
        match frame:
            case Item():
                return frame.body
            case End():
                self.ended = True
                raise StopAsyncIteration
            case Failure():
                self.ended = True
                raise frames.error_of(frame)
        raise BadContent(f"{self._stream.peer} answered {self._address} with a {type(frame).__name__}")


class _Work:
    """How much is in work, and how much may be."""

    def __init__(self, max_calls: int, max_bytes: int) -> None:
        self.max_calls = max_calls
        self.max_bytes = max_bytes
        self.calls = 0
        self.bytes = 0


class _Held:
    """What one call takes of the bounds that it counts against."""

    def __init__(self, works: tuple[_Work, ...]) -> None:
        self._works = works
        self._calls = 0
        self._bytes = 0

    def take(self, *, calls: int = 0, size: int = 0) -> None:
        """Take so much more of each. Raises Busy, and takes nothing."""
        for work in self._works:
            if work.calls + calls > work.max_calls:
                raise Busy(f"{work.max_calls} calls are in work here already; try again later")
            if work.bytes + size > work.max_bytes:
                raise Busy(f"{work.max_bytes} bytes of calls are in work here already; try again later")
        for work in self._works:
            work.calls += calls
            work.bytes += size
        self._calls += calls
        self._bytes += size

    def give_back(self) -> None:
        """Give back all that was taken."""
        for work in self._works:
            work.calls -= self._calls
            work.bytes -= self._bytes
        self._calls = self._bytes = 0


async def _receive(stream: Stream, reader: FrameReader, address: str) -> Frame:
    """Return the next frame of an answer. Raises BusClosed or BadContent."""
    try:
        while (frame := reader.next_frame()) is None:
            data = await stream.receive_some()
            if not data:
                raise BusClosed(f"{stream.peer} ended the call of {address} without an answer")
            reader.feed(data)
    except OverlayError as error:
        raise BusClosed(
            f"the session with {stream.peer} broke before {address} was answered: {error}"
        ) from error
    return frame


async def _receive_request(stream: Stream, held: _Held) -> Frame:
    """Return the first frame; its bytes are taken of the bounds as soon as its length is known."""
    reader = FrameReader()
    announced: int | None = None
    while (frame := reader.next_frame()) is None:
        if announced is None and (announced := reader.announced) is not None:
            held.take(size=announced)
        data = await stream.receive_some()
        if not data:
            raise BadContent("the stream ended within its request")
        reader.feed(data)
    if announced is None:
        held.take(size=len(frame.body) if isinstance(frame, Request) else 0)
    return frame


async def _finish(stream: Stream, ended: bool) -> None:
    """Close a stream whose call has ended; break off one whose call has not, or that does not close."""
    closed = False
    try:
        if ended:
            with trio.move_on_after(CLOSE_TIMEOUT), contextlib.suppress(OverlayError):
                await stream.aclose()
                closed = True
    finally:
        if not closed:
            stream.reset()


async def _watch(stream: Stream, scope: trio.CancelScope) -> None:
    """Cancel `scope` when the caller breaks off, which is all that may come after its request."""
    try:
        if await stream.receive_some(1):
            stream.reset()
    except OverlayError:
        pass
    scope.cancel()


async def _refuse(stream: Stream, refusal: Busy) -> None:
    """Say why, and let the caller finish its sentence: it listens only when it has sent all."""
    with trio.move_on_after(REQUEST_TIMEOUT), contextlib.suppress(OverlayError):
        await stream.send_all(frames.encode(frames.failure(0, refusal)))
        while await stream.receive_some():
            pass
    stream.reset()


def _as_called(peer: str, address: str) -> str:
    return net_address(peer, address.removeprefix("/public/"))
