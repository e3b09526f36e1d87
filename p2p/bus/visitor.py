"""One local process inside the door: what its token opens, what it serves, what it listens to.

Its calls go to the node's router as calls of this node made by the child; prefixes that it registers are
served by calling back over its line. Used by `p2p.bus.door` alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from p2p.bus import address as addresses
from p2p.bus import frames
from p2p.bus.api import BadContent, BusClosed, BusError, Busy, Caller, RemoteError
from p2p.bus.frames import Event, Publish, Register, Reply, Subscribe, Unregister, Unsubscribe
from p2p.bus.line import Line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

    from p2p.bus.api import Call, Registration
    from p2p.bus.frames import Frame, FrameReader, Request
    from p2p.bus.router import LocalBus

MAX_REGISTRATIONS: Final = 256
"""Prefixes that one connection may serve, and as many topics that it may listen to."""


class Grant(msgspec.Struct, frozen=True):
    """What a token opens; the owner's (an empty subject) opens everything."""

    subject: str = ""
    """Whom it was issued to, such as an activity id."""
    may_register: tuple[str, ...] = ()
    """Prefixes at or below which it may serve."""
    may_call: tuple[str, ...] = ()
    """Prefixes at or below which it may call, spelled as `address.canonical` does."""
    may_publish: tuple[str, ...] = ()
    """Topics at or below which it may publish."""
    may_subscribe: tuple[str, ...] = ()
    """Topics at or below which it may listen."""
    serves: Callable[[Caller], bool] | None = None
    """Whom its endpoints answer; None for everyone that reaches them."""

    def check(self, verb: str, prefixes: tuple[str, ...], name: str) -> None:
        """Refuse what the token does not open. Raises RemoteError `forbidden`."""
        if self.subject and not any(addresses.below(name, prefix) for prefix in prefixes):
            raise RemoteError("forbidden", f"the bus token of {self.subject} does not let it {verb} {name}")


class Visitor:
    """A connection that has shown a token. Serve it with `run`."""

    def __init__(self, bus: LocalBus, grant: Grant, stream: trio.abc.Stream, reader: FrameReader) -> None:
        self._bus = bus
        self._grant = grant
        self._caller = Caller(node_id=bus.node_id, local=True, child=grant.subject)
        self._line = Line(stream, self, name=grant.subject or "a process of the owner", reader=reader)
        self._registrations: dict[int, Registration] = {}
        self._subscriptions: dict[int, trio.CancelScope] = {}
        self._nursery: trio.Nursery | None = None

    def __repr__(self) -> str:
        return (
            f"<Visitor {self._grant.subject or 'owner'}, serves {len(self._registrations)}, {self._line!r}>"
        )

    async def run(self) -> None:
        """Serve until either end closes; what it registered is gone then."""
        async with trio.open_nursery() as self._nursery:
            await self._line.run()
            self._nursery.cancel_scope.cancel()

    def drop(self) -> None:
        """End the connection at once."""
        self._line.drop()

    # What the line asks of its owner.

    async def answer(self, request: Request) -> bytes:
        address = self._callable(request)
        return await self._bus.call_as(self._who(request), address, request.body)

    def answer_stream(self, request: Request) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        address = self._callable(request)
        return self._bus.stream_as(self._who(request), address, request.body, timeout=request.timeout)

    def receive(self, frame: Frame) -> None:
        try:
            match frame:
                case Register():
                    self._register(frame)
                case Unregister():
                    registration = self._registrations.pop(frame.id, None)
                    if registration is not None:
                        registration.close()
                case Subscribe():
                    self._subscribe(frame)
                case Unsubscribe():
                    subscription = self._subscriptions.pop(frame.id, None)
                    if subscription is not None:
                        subscription.cancel()
                case Publish():
                    self._grant.check("publish on", self._grant.may_publish, frame.topic)
                    self._bus.publish(frame.topic, frame.body)
                case _:
                    raise BadContent(f"a {type(frame).__name__} has no place here")
        except RemoteError as refusal:  # Publish has no answer: who may not is dropped, which is one too
            raise BadContent(refusal.message) from refusal

    def ended(self) -> None:
        for registration in self._registrations.values():
            registration.close()
        self._registrations.clear()

    # Rights.

    def _who(self, request: Request) -> Caller:
        if not request.acting:
            return self._caller
        if self._grant.subject:
            raise RemoteError("forbidden", f"{self._grant.subject} has no identity to choose")
        return self._bus.own_caller(request.acting)

    def _callable(self, request: Request) -> str:
        address = addresses.canonical(request.address, self._bus.node_id)
        self._grant.check("call", self._grant.may_call, address)
        return address

    def _register(self, frame: Register) -> None:
        try:
            self._grant.check("serve", self._grant.may_register, frame.prefix)
            if len(self._registrations) >= MAX_REGISTRATIONS:
                raise Busy(f"a connection serves at most {MAX_REGISTRATIONS} prefixes")
            self._registrations[frame.id] = self._bus.register(
                frame.prefix, _Forwarder(self._line), allow=self._grant.serves
            )
        except BusError as error:
            self._line.send_nowait(frames.failure(frame.id, error))
        else:
            self._line.send_nowait(Reply(frame.id))

    def _subscribe(self, frame: Subscribe) -> None:
        try:
            self._grant.check("listen to", self._grant.may_subscribe, frame.topic)
            if len(self._subscriptions) >= MAX_REGISTRATIONS:
                raise Busy(f"a connection listens to at most {MAX_REGISTRATIONS} topics")
        except BusError as error:
            self._line.send_nowait(frames.failure(frame.id, error))
            return
        scope = self._subscriptions[frame.id] = trio.CancelScope()
        assert self._nursery is not None
        self._nursery.start_soon(self._pass_on, frame, scope)

    async def _pass_on(self, frame: Subscribe, scope: trio.CancelScope) -> None:
        try:
            with scope:
                async with self._bus.subscribe(frame.topic) as events:
                    self._line.send_nowait(Reply(frame.id))
                    async for body in events:
                        await self._line.send(Event(frame.id, body))
        except BusClosed:
            pass  # the line has ended, and this with it


class _Forwarder:
    """An endpoint that a child serves; it is told who calls."""

    def __init__(self, line: Line) -> None:
        self._line = line

    async def call(self, call: Call) -> bytes:
        return await self._line.call(call.address, call.body, caller=call.caller)

    async def stream(self, call: Call) -> AsyncIterator[bytes]:
        deadline = trio.current_effective_deadline()
        async with self._line.stream(call.address, call.body, deadline=deadline, caller=call.caller) as items:
            async for item in items:
                yield item
