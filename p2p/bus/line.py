"""`Line`: many calls, both ways, over one byte stream. What the door, its client and two nodes have in common.

One task at a time reads, and answers what need not wait for anything; who has to wait appoints another to read on
(`p2p.bus.workers`). One writes, and puts what has gathered into one send; one keeps the time of all calls. No stream of
items can stall the rest: its sender may have only as many bytes under way as its receiver gave credit for. Sends
are never cancelled half-way, since the writer is no caller's task.

Bounds, per line: calls in flight each way (`Busy`), bytes of requests in work (`Busy`), bytes that wait to be
sent (senders wait; an end that lets control messages pile up is dropped), a window per streaming call. An
end that breaks the rules is dropped: the line ends, and every call in flight fails with BusClosed.

Errors, beside those of `p2p.bus.api`:
    BusClosed
    └── NotSent     the line had ended before anything of the call was sent, so that it can be made anew
"""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING

import structlog
import trio

from p2p.bus import frames
from p2p.bus.api import BadContent, BusClosed, BusError, Busy
from p2p.bus.bounds import Held, check
from p2p.bus.deadlines import Deadlines
from p2p.bus.endpoints import milliseconds_until, timed_out
from p2p.bus.frames import (
    ITEM_COST,
    Cancel,
    Credit,
    End,
    Failure,
    Item,
    Part,
    Register,
    Reply,
    Request,
    Subscribe,
)
from p2p.bus.outbox import Outbox
from p2p.bus.requests import WINDOW_BYTES, Answering, LineRules, Pending
from p2p.bus.workers import Workers, begin, see_through
from p2p.waiting import Waiter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from p2p.bus.api import Caller
    from p2p.bus.bounds import Work
    from p2p.bus.frames import Frame
    from p2p.bus.outbox import Channel
    from p2p.bus.requests import LineOwner
    from p2p.bus.workers import Worker

MAX_CALLS = 256
"""Calls in flight, each way."""
MAX_REQUEST_BYTES = 64 * 1024 * 1024
"""Bytes of the requests that are being answered."""
SEND_LIMIT_BYTES = 16 * 1024 * 1024
"""Bytes waiting to be sent at which the other end is taken for stuck."""
FRAMES_AT_A_TIME = 64
"""Frames taken before other tasks get their turn: a chunk of the smallest holds thousands, and takes tens of ms."""
_RECEIVE_BYTES = 64 * 1024

_log = structlog.get_logger("p2p.bus")

_ANSWERS = (Reply, Part, Item, End, Failure)
_ASKING = (Request, Register, Subscribe)


class NotSent(BusClosed):
    """The line ended before anything of the call was sent."""


class Line:
    """Both ends of a connection run one. Serve with `run`; `closed` is set when it has ended.

    Args:
        stream: the connection; the line closes it.
        owner: answers what arrives.
        name: who is at the other end, for logs and errors.
        reader: the stream's frames so far, where a handshake came first; it bounds their size.
        rules: what the other end may do.
        works: what its calls, their requests and their answers count against, beside the line's own bounds.
    """

    def __init__(
        self,
        stream: Channel,
        owner: LineOwner,
        *,
        name: str,
        reader: frames.FrameReader | None = None,
        rules: LineRules = LineRules(),  # noqa: B008 - frozen
        works: tuple[Work, ...] = (),
    ) -> None:
        self.name = name
        self.closed = trio.Event()
        self.failure: Exception | None = None
        """What ended the line, where it was not one of the ends."""
        self._rules = rules
        self._works = works
        self._stream = stream
        self._owner = owner
        self._reader = reader or frames.FrameReader()
        self._nursery: trio.Nursery | None = None
        self._workers: Workers | None = None
        self._next_id = 0
        self._pending: dict[int, Pending] = {}
        self._notices: dict[int, Callable[[BusError | None], None]] = {}
        self._answering: dict[int, Answering] = {}
        self._highest_asked = -1
        self._request_bytes = 0
        self._our_deadlines = Deadlines(self._pending)
        self._their_deadlines = Deadlines(self._answering)
        self._clock = Waiter()
        self._outbox = Outbox(stream, ahead=rules.ahead_bytes, patience=rules.patience)

    def __repr__(self) -> str:
        state = "closed" if self.closed.is_set() else "open"
        return f"<Line to {self.name}, {state}, {len(self._pending)} out, {len(self._answering)} in>"

    @property
    def backlog(self) -> int:
        """Return how many bytes wait to be sent."""
        return self._outbox.size

    @property
    def calls(self) -> int:
        """Return how many calls of this end wait for their answers."""
        return len(self._pending)

    async def run(self) -> None:
        """Serve until either end closes. Raises nothing of its own."""
        try:
            async with trio.open_nursery() as self._nursery:
                self._workers = Workers(self._nursery, self._read)
                self._nursery.start_soon(self._write)
                self._nursery.start_soon(self._keep_time)
                self._workers.appoint()
                try:
                    await self.closed.wait()
                finally:
                    self._end()
                    self._nursery.cancel_scope.cancel()
                    # Here, so that the other end need not wait for handlers that take their time to stop.
                    with trio.CancelScope() as at_once:
                        at_once.cancel()
                        await self._stream.aclose()
        finally:
            self._end()

    def drop(self) -> None:
        """End the line at once."""
        self._end()
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    async def flush(self) -> None:
        """Wait until everything sent so far has left this process, or the line has ended."""
        await self._outbox.flush()

    # Calls of ours.

    def request(self, make: Callable[[int], Frame], answered: Callable[[BusError | None], None]) -> int:
        """Send a request without a body at once, and return its id.

        `answered` is called with None or an error when the answer comes or the line ends; it must not raise.
        """
        request_id = self._new_id(len(self._notices))
        self._notices[request_id] = answered
        self.send_nowait(make(request_id))
        return request_id

    async def call(
        self,
        address: str,
        body: bytes,
        *,
        deadline: float = math.inf,
        caller: Caller | None = None,
        acting: str = "",
        called: str = "",
    ) -> bytes:
        """Call the other end, which is told the nearer of `deadline` and the effective one. Raises BusError.

        Args:
            deadline: in trio's time; BusTimeout if there is no answer by then.
            caller: who calls, said by a node to its own child process.
            acting: which of this end's identities calls; empty for the one that the session proved.
            called: `address` as whoever calls knows it.
        """
        request_id = self._new_id(len(self._pending))
        pending = self._pending[request_id] = Pending(called or address, streaming=False)
        told = milliseconds_until(min(deadline, trio.current_effective_deadline()))
        request = Request(request_id, address, body, timeout_ms=told, caller=caller, acting=acting)
        if deadline < math.inf and self._our_deadlines.add(deadline, request_id):
            self._clock.wake()
        try:
            if self._outbox.full:
                with trio.CancelScope(deadline=deadline):
                    await self._outbox.room()
            if self.closed.is_set():
                raise NotSent(self._closed_text())
            self.send_nowait(request)
            reply = await pending.take()
            assert reply is not None
            return reply
        finally:
            self._finish(request_id)

    @contextlib.asynccontextmanager
    async def stream(
        self,
        address: str,
        body: bytes,
        *,
        deadline: float = math.inf,
        caller: Caller | None = None,
        acting: str = "",
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Make a streaming call; the other end is told the nearer of `deadline` and the effective one."""
        request_id = self._new_id(len(self._pending))
        pending = self._pending[request_id] = Pending(address, streaming=True)
        request = Request(
            request_id,
            address,
            body,
            streaming=True,
            timeout_ms=milliseconds_until(min(deadline, trio.current_effective_deadline())),
            credit=WINDOW_BYTES,
            caller=caller,
            acting=acting,
        )
        try:
            with trio.CancelScope(deadline=deadline):
                await self.send(request)
            yield _Incoming(self, request_id, pending)
        finally:
            self._finish(request_id)

    def grant(self, request_id: int, size: int) -> None:
        """Give credit for items that were read."""
        pending = self._pending.get(request_id)
        if pending is not None:
            pending.window += size
            self.send_nowait(Credit(request_id, size))

    # Sending.

    async def send(self, frame: Frame) -> None:
        """Send a message; waits while too much waits already. Raises NotSent."""
        if self._outbox.full:
            await self._outbox.room()
        if self.closed.is_set():
            raise NotSent(self._closed_text())
        self.send_nowait(frame)

    def send_nowait(self, frame: Frame) -> None:
        """Send a small message without waiting; nothing happens when the line has ended."""
        if self.closed.is_set():
            return
        self._outbox.put(frames.encode(frame))
        if self._outbox.size > SEND_LIMIT_BYTES:
            self._complain("the other end of the bus does not read; dropped")
            self.drop()

    async def _keep_time(self) -> None:
        while True:
            now = trio.current_time()
            for request_id in self._our_deadlines.due(now):
                pending = self._pending[request_id]
                if not pending.ended:
                    pending.end(timed_out(pending.called))
                    self.send_nowait(Cancel(request_id))
            for request_id in self._their_deadlines.due(now):
                answering = self._answering[request_id]
                self.send_nowait(frames.failure(request_id, timed_out(answering.address)))
                answering.worker.cancel(answering)
            with trio.CancelScope(deadline=min(self._our_deadlines.next, self._their_deadlines.next)):
                await self._clock.wait()

    async def _write(self) -> None:
        try:
            await self._outbox.run()
        except BusClosed as error:
            self._complain("the other end of the bus does not read; dropped", error)
            self.drop()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.drop()

    # Receiving.

    async def _read(self, worker: Worker) -> bool:
        """Take what comes, until a call has to wait for something; then have another read on, and see it through.

        Returns False when there is nothing more to read.
        """
        try:
            while not self.closed.is_set():
                taken = 0
                while (frame := self._reader.next_frame()) is not None:
                    answering = self._receive(frame, worker)
                    if answering is not None:
                        assert self._workers is not None
                        self._workers.appoint()
                        await see_through(answering.work, answering.waits_for)
                        return True
                    taken += 1
                    if taken % FRAMES_AT_A_TIME == 0:
                        worker.clear_deadline()
                        await trio.lowlevel.checkpoint()
                worker.clear_deadline()
                data = await self._stream.receive_some(_RECEIVE_BYTES)
                if not data:
                    break
                self._reader.feed(data)
        except BadContent as error:
            self._complain("the other end of the bus broke its rules; dropped", error)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self.failure = error.__cause__ if isinstance(error.__cause__, Exception) else error
        self.drop()
        return False

    def _complain(self, what: str, error: Exception | None = None) -> None:
        self.failure = error
        say = _log.warning if self._rules.trusted else _log.debug
        say(what, other=self.name, **({} if error is None else {"error": str(error)}))

    def _receive(self, frame: Frame, worker: Worker) -> Answering | None:
        """Take a frame; return a call that has to wait for something, which `worker` has to see through."""
        if isinstance(frame, _ANSWERS):
            self._receive_answer(frame)
            return None
        if not self._rules.answers:
            raise BadContent(f"a {type(frame).__name__} where only answers are awaited")
        if isinstance(frame, _ASKING):
            if frame.id <= self._highest_asked:
                raise BadContent("a request's id was used before")
            self._highest_asked = frame.id
        match frame:
            case Request():
                return self._start(frame, worker)
            case Cancel():
                answering = self._answering.get(frame.id)
                if answering is not None:
                    answering.worker.cancel(answering)
            case Credit():
                answering = self._answering.get(frame.id)
                if answering is not None:
                    answering.credit += frame.size
                    if answering.more_credit is not None:
                        answering.more_credit.set()
            case _:
                self._owner.receive(frame)
        return None

    def _receive_answer(self, frame: Reply | Part | Item | End | Failure) -> None:
        if frame.id >= self._next_id:
            raise BadContent("an answer to what was never asked")
        if self._notices and isinstance(frame, Reply | Failure):
            answered = self._notices.pop(frame.id, None)
            if answered is not None:
                answered(frames.error_of(frame) if isinstance(frame, Failure) else None)
                return
        pending = self._pending.get(frame.id)
        if pending is None:
            return  # its caller gave up, and the other end had not heard yet
        match frame:
            case Reply() if not pending.streaming:
                pending.answer(frame.body)
            case Failure():
                pending.end(frames.error_of(frame))
            case End() if pending.streaming:
                pending.end()
            case Part() if not pending.streaming and frame.body:
                pending.put_part(frame.body)
            case Item() if pending.streaming:
                if pending.window <= 0:
                    raise BadContent("an item beyond its credit")
                pending.window -= len(frame.body) + ITEM_COST
                pending.put(frame.body)
                return
            case _:
                raise BadContent(f"a {type(frame).__name__} is no answer to that request")

    # Calls of the other end.

    def _start(self, request: Request, worker: Worker) -> Answering | None:
        """Answer a call; return it if it has to wait for something."""
        try:
            self._admit(request)
        except BusError as refusal:
            self.send_nowait(frames.failure(request.id, refusal))
            return None
        now, deadline = trio.current_time(), math.inf
        if not request.streaming:  # the time of a stream of items is kept where they are made
            timeout = math.inf if request.timeout_ms is None else request.timeout_ms / 1000
            deadline = now + min(timeout, self._rules.longest_call)
        worker.set_deadline(deadline, now)
        answering = Answering(request, worker)
        answering.work = self._answer(request, answering)
        answering.waits_for = begin(answering.work)
        if answering.waits_for is None:
            return None
        worker.busy_with = self._answering[request.id] = answering
        answering.held = Held(*self._works)
        answering.held.take_over(calls=1, size=answering.size)
        self._request_bytes += len(request.body)
        if deadline < math.inf and self._their_deadlines.add(deadline, request.id):
            self._clock.wake()
        return answering

    def _admit(self, request: Request) -> None:
        too_much = self._request_bytes + len(request.body) > MAX_REQUEST_BYTES
        if len(self._answering) >= MAX_CALLS or too_much:
            raise Busy(
                f"{MAX_CALLS} calls, or {MAX_REQUEST_BYTES} bytes of them, are in work on this connection"
            )
        if request.streaming and not self._rules.streams:
            raise BadContent("a streaming call has to be made on a stream of its own")
        check(self._works, calls=1, size=len(request.body))

    async def _answer(self, request: Request, answering: Answering) -> None:
        try:
            try:
                if request.streaming:
                    await self._answer_stream(request, answering)
                    await self.send(End(request.id))
                else:
                    body = await self._owner.answer(request)
                    answering.hold(len(body))
                    await self._send_reply(request.id, body)
            except BusError as error:
                await self.send(frames.failure(request.id, error))
        except BusClosed:
            pass  # nobody is there to be told
        finally:
            if self._answering.pop(request.id, None) is not None:
                self._request_bytes -= len(request.body)
            if answering.held is not None:
                answering.held.give_back()

    async def _send_reply(self, request_id: int, body: bytes) -> None:
        at, size = 0, self._rules.piece_bytes
        if len(body) <= size and not self._outbox.full:
            self.send_nowait(Reply(request_id, body))
            return
        while len(body) - at > size:
            await self.send(Part(request_id, body[at : at + size]))
            at += size
        await self.send(Reply(request_id, body[at:] if at else body))

    async def _answer_stream(self, request: Request, answering: Answering) -> None:
        async with self._owner.answer_stream(request) as items:
            async for body in items:
                while answering.credit <= 0:
                    answering.more_credit = trio.Event()
                    await answering.more_credit.wait()
                answering.credit -= len(body) + ITEM_COST
                await self.send(Item(request.id, body))

    # Ends.

    def _new_id(self, in_flight: int) -> int:
        if self.closed.is_set():
            raise NotSent(self._closed_text())
        if in_flight >= MAX_CALLS:
            raise Busy(f"{MAX_CALLS} calls to {self.name} are in flight already")
        self._next_id += 1
        return self._next_id - 1

    def _finish(self, request_id: int) -> None:
        pending = self._pending.pop(request_id, None)
        if pending is not None and not pending.ended:
            self.send_nowait(Cancel(request_id))

    def _end(self) -> None:
        if self.closed.is_set():
            return
        self.closed.set()
        self._owner.ended()
        self._outbox.close()
        for pending in self._pending.values():
            pending.end(BusClosed(self._closed_text()))
        notices, self._notices = self._notices, {}
        for answered in notices.values():
            answered(BusClosed(self._closed_text()))

    def _closed_text(self) -> str:
        why = "" if self.failure is None or not str(self.failure) else f": {self.failure}"
        return f"the bus connection to {self.name} has ended{why}"


class _Incoming:
    """The items of a streaming call of ours; what was read is granted anew, half a window at a time."""

    def __init__(self, line: Line, request_id: int, pending: Pending) -> None:
        self._line = line
        self._request_id = request_id
        self._pending = pending
        self._read = 0

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        body = await self._pending.take()
        if body is None:
            raise StopAsyncIteration
        self._read += len(body) + ITEM_COST
        if self._read >= WINDOW_BYTES // 2:
            self._line.grant(self._request_id, self._read)
            self._read = 0
        return body
