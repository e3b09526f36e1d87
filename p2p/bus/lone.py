"""A call between nodes on a stream of its own, both ends of it: streaming calls, and those with large bodies.

The caller sends a Request and keeps its side open; the far end sends a Reply, or Items and an End, or a Failure, and
both close. Whoever breaks the stream off ends the call: a caller that gives up resets, and the handler there is
cancelled. Flow control is the stream's own, so that a service waits for who does not read, and nobody else does.

Bounds: bytes of a request are taken of what its peer may have in work before they are read; seconds to say a
request and to take an answer. Used by `p2p.bus.peer`.
"""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Final

import trio

from p2p.bus import frames
from p2p.bus.api import BadContent, BusClosed, BusError, Busy, NoEndpoint
from p2p.bus.endpoints import timed_out
from p2p.bus.frames import End, Failure, FrameReader, Item, Reply, Request
from p2p.overlay import OverlayError, ProtocolRefused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from p2p.bus.bounds import Held
    from p2p.bus.frames import Frame
    from p2p.bus.requests import LineOwner
    from p2p.overlay import Stream

REQUEST_TIMEOUT: Final = 30.0
"""Seconds for a request to arrive once its stream is open."""
ANSWER_TIMEOUT: Final = 60.0
"""Seconds for an answer to be taken. Items of a streaming call may take as long as the caller likes."""
CLOSE_TIMEOUT: Final = 10.0
"""Seconds for a stream to close once its call has ended."""
MAX_CALL_SECONDS: Final = 3600.0
"""Longest that a peer's call is worked on, whatever it asks for. Streaming calls have no such end."""


# The caller's end.


async def ask(stream: Stream, request: Request, called: str) -> None:
    """Send a request. Raises BusClosed; the stream is reset if not all of it was sent."""
    try:
        await stream.send_all(frames.encode(request))
    except BaseException as error:
        stream.reset()
        if isinstance(error, OverlayError):
            raise BusClosed(
                f"the session with {stream.peer} broke while {called} was called: {error}"
            ) from error
        raise


async def hear(stream: Stream, address: str) -> bytes:
    """Return the answer to a call that does not stream, and close the stream. Raises BusError."""
    ended = False
    try:
        answer = await _receive(stream, FrameReader(), address)
        ended = isinstance(answer, Reply | Failure)
    finally:
        await finish(stream, ended)
    if isinstance(answer, Failure):
        raise frames.error_of(answer)
    if not isinstance(answer, Reply):
        raise BadContent(f"{stream.peer} answered {address} with a {type(answer).__name__}")
    return answer.body


class LoneItems:
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


async def finish(stream: Stream, ended: bool) -> None:
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


async def _receive(stream: Stream, reader: FrameReader, address: str) -> Frame:
    """Return the next frame of an answer. Raises BusClosed or BadContent."""
    try:
        while (frame := reader.next_frame()) is None:
            data = await stream.receive_some()
            if not data:
                raise BusClosed(f"{stream.peer} ended the call of {address} without an answer")
            reader.feed(data)
    except ProtocolRefused as error:  # a stream may be opened before the peer has agreed to what it speaks
        raise no_bus(address, error) from error
    except OverlayError as error:
        raise BusClosed(
            f"the session with {stream.peer} broke before {address} was answered: {error}"
        ) from error
    return frame


def no_bus(called: str, error: ProtocolRefused) -> NoEndpoint:
    """Return the error for a peer that has no bus that we could call."""
    return NoEndpoint(called, f"the peer speaks no bus of this network and version: {error}")


# The far end.


async def serve(stream: Stream, owner: LineOwner, held: Held) -> None:
    """Answer the one call on a stream that a peer opened.

    Raises:
        BadContent: what came is no call.
        OverlayError: the caller is gone.
    """
    try:
        held.take(calls=1)
        request = await _request(stream, held)
    except Busy as refusal:
        await _refuse(stream, refusal)
        return
    answered = False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_watch, stream, nursery.cancel_scope)
        answered = await _answer(stream, request, owner, held)
        nursery.cancel_scope.cancel()
    await finish(stream, answered)


async def _request(stream: Stream, held: Held) -> Request:
    request: Frame | None = None
    with trio.move_on_after(REQUEST_TIMEOUT):
        request = await _receive_request(stream, held)
    if not isinstance(request, Request):
        raise BadContent("no request came in time" if request is None else "it did not begin with a request")
    return request


async def _receive_request(stream: Stream, held: Held) -> Frame:
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


async def _answer(stream: Stream, request: Request, owner: LineOwner, held: Held) -> bool:
    """Answer, and return whether the caller got all of it."""
    try:
        try:
            if request.streaming:
                async with owner.answer_stream(request) as items:
                    async for body in items:
                        held.take(size=len(body))  # a caller that takes none holds one
                        await stream.send_all(frames.encode(Item(0, body)))
                        held.free(len(body))
                last: Frame = End(0)
            else:
                last = Reply(0, await _answer_in_time(request, owner, held))
        except BusError as error:
            last = frames.failure(0, error)
        with trio.move_on_after(ANSWER_TIMEOUT):
            await stream.send_all(frames.encode(last))
            return True
    except OverlayError:
        pass  # the caller is gone; there is nobody to tell
    return False


async def _answer_in_time(request: Request, owner: LineOwner, held: Held) -> bytes:
    with trio.move_on_after(min(MAX_CALL_SECONDS, math.inf if request.timeout is None else request.timeout)):
        body = await owner.answer(request)
        held.take(size=len(body))
        return body
    raise timed_out(request.address)


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
