"""`MuxedStream`: `p2p.overlay.Stream` on a session's stream, and its lazy negotiation.

Sending queues whole frames and never waits for the socket while there is room, so that a cancelled `send_all` has
sent some of its data or none, and the session is unharmed. Reading takes what has arrived. Neither gives way to
other tasks each time, as trio's own streams do, but after every 256 KiB: a checkpoint costs as much as a record.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from p2p.identity import NodeId
from p2p.overlay import OverlayError, ProtocolRefused, StreamBroken
from p2p.session.errors import ProtocolError
from p2p.session.multistream import Answering, Proposal
from p2p.session.wire import FLUSH_BYTES
from p2p.urgency import class_of
from p2p.waiting import Waiter

if TYPE_CHECKING:
    from collections.abc import Container

    from p2p.metrics import Traffic
    from p2p.session.connection import Session
    from p2p.session.flow import YamuxStream

_CALLS_BEFORE_YIELD = 64


class MuxedStream:
    """One end of a stream; see `p2p.overlay.Stream` for its methods.

    Of its own: `protocol`, `negotiated` and `send_now`. Whoever has a stream has to close or to reset it.
    """

    __slots__ = (
        "_at_once",
        "_calls",
        "_closed",
        "_proposal",
        "_pushed_back",
        "_readable",
        "_receiving",
        "_refusal",
        "_sendable",
        "_sending",
        "_session",
        "core",
        "protocol",
    )

    def __init__(self, session: Session, core: YamuxStream) -> None:
        self.core = core
        self.protocol = ""
        """What the stream speaks; on an accepted one empty until `respond`."""
        self._session = session
        self._readable, self._sendable = Waiter(), Waiter()
        self._sending = self._receiving = self._closed = False
        self._proposal: Proposal | None = None
        self._refusal: ProtocolRefused | None = None
        self._pushed_back = b""
        self._at_once = self._calls = 0

    def __repr__(self) -> str:
        return f"<MuxedStream {self.protocol or self.core.id} of {self._session!r}>"

    @property
    def session(self) -> Session:
        """Return the session that carries the stream."""
        return self._session

    @property
    def peer(self) -> NodeId:
        return NodeId(self._session.name)

    async def send_all(self, data: bytes) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._sending = True
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            self._check_sending()
            rest = memoryview(data if isinstance(data, bytes) else bytes(data))
            core, yamux = self.core, self._session.core
            while True:
                taken = yamux.queue(core, rest)
                rest = rest[taken:]
                if taken and await self._session.flush(taken):
                    self._check_sending()
                if not rest:
                    return
                if not yamux.room(core):
                    core.waits = True
                    self._sendable.forget()
                    await self._sendable.wait()
                    self._check_sending()
        finally:
            self._sending = False

    def send_now(self, data: bytes) -> int:
        """Queue as much of `data` as there is room for, without waiting; return how much. Nothing once it broke."""
        core = self.core
        if self._sending or self._closed or core.fin_wanted or core.failure is not None:
            return 0
        taken = self._session.core.queue(core, memoryview(data))
        if taken:
            self._session.send_soon()
        return taken

    async def receive_some(self, max_bytes: int = 65536) -> bytes:
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving on this stream")
        if max_bytes < 1:
            raise ValueError("receive_some takes at least one byte")
        self._receiving = True
        try:
            await self._yield_now_and_then()
            if self._proposal is not None:
                await self._hear_answer()
            if self._closed:
                raise trio.ClosedResourceError("this end of the stream was closed")
            if self._pushed_back:
                data, self._pushed_back = self._pushed_back[:max_bytes], self._pushed_back[max_bytes:]
            else:
                data = await self._receive(max_bytes)
            self._at_once += len(data)
            return data
        finally:
            self._receiving = False

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.core.failure is not None or self._closed:
            self._check_sending()
        self._session.core.finish(self.core)
        self._session.wake_writer()

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            self._pushed_back = b""
            self._session.core.close(self.core, trio.current_time())
            self._session.dispatch()
            self.wake()
        await trio.lowlevel.checkpoint()

    def reset(self) -> None:
        self._pushed_back = b""
        self._session.core.reset(self.core)
        self._session.dispatch()
        self.wake()

    def count_with(self, traffic: Traffic) -> None:
        """Have the stream's bytes counted there from now on, and what was received together with the negotiation."""
        early = len(self._pushed_back)
        self.core.traffic.received -= early
        traffic.received += early
        self.core.traffic = traffic

    # Negotiation.

    def propose(self, protocol: str) -> None:
        """Propose `protocol` with what is sent first; the answer is heard with what is received first."""
        self._speak(protocol)
        self._proposal = Proposal(protocol)
        self._session.core.queue(self.core, memoryview(self._proposal.hello))
        self._session.wake_writer()

    async def negotiated(self) -> None:
        """Wait until the peer has agreed to the protocol that was proposed.

        Raises:
            ProtocolRefused: it does not serve it. The stream is reset.
            StreamBroken: the stream broke, or what came is no negotiation.
        """
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving on this stream")
        self._receiving = True
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            if self._proposal is not None:
                await self._hear_answer()
        finally:
            self._receiving = False

    async def respond(self, served: Container[str]) -> str:
        """Agree on one of the protocols in `served`, on a stream that the peer opened; return it.

        Raises:
            ProtocolRefused: the peer proposed none of them.
            StreamBroken: the stream broke, or what came is no negotiation.
        """
        answering = Answering(served)
        try:
            while answering.protocol is None:
                data = await self.receive_some()
                if not data:
                    raise StreamBroken(f"{self._session.name} finished in the middle of the negotiation")
                await self._say(answering, answering.receive(data))
        except ProtocolError as error:
            raise StreamBroken(f"a negotiation with {self._session.name} failed: {error}") from error
        self._pushed_back = answering.unread
        self._speak(answering.protocol)
        return answering.protocol

    async def _say(self, answering: Answering, answer: bytes) -> None:
        """Send an answer; an agreement with the first that is said, where that comes at once.

        That is a system call and a record less for each call on a stream of its own.
        """
        if answering.protocol is not None:
            self._check_sending()
            taken = self._session.core.queue(self.core, memoryview(answer))
            self._session.wake_writer()
            answer = answer[taken:]
        if answer:
            await self.send_all(answer)

    def _speak(self, protocol: str) -> None:
        self.protocol = protocol
        self._session.core.set_urgent(self.core, class_of(protocol).urgent)

    async def _hear_answer(self) -> None:
        while self._proposal is not None:
            data = await self._receive(65536)
            try:
                if not data:
                    raise ProtocolError("it finished in the middle of the negotiation")
                rest = self._proposal.receive(data)
            except ProtocolRefused as error:
                self._refusal = ProtocolRefused(f"{self._session.name} does not serve {self.protocol}")
                self.reset()
                raise self._refusal from error
            except ProtocolError as error:
                self.reset()
                raise StreamBroken(f"a negotiation with {self._session.name} failed: {error}") from error
            if rest is not None:
                self._proposal = None
                self._pushed_back = rest
                self._session.confirmed.add(self.protocol)

    # What the session calls.

    def wake(self) -> None:
        """Let tasks that wait on the stream look again."""
        self._readable.wake()
        self._sendable.wake()

    # Within.

    async def _receive(self, max_bytes: int) -> bytes:
        core = self.core
        while not core.buffered:
            if core.remote_finished:  # also when the session has ended since
                return b""
            if core.failure is not None:
                raise self._broken()
            if self._closed:
                raise trio.ClosedResourceError("this end of the stream was closed")
            if core.ack_owed:
                self._session.acknowledge(core)
            self._readable.forget()
            await self._readable.wait()
            self._at_once = self._calls = 0
        data = self._session.core.take(core, max_bytes, trio.current_time())
        self._session.credit_given()
        return data

    async def _yield_now_and_then(self) -> None:
        self._calls += 1
        if self._at_once >= FLUSH_BYTES or self._calls >= _CALLS_BEFORE_YIELD:
            self._at_once = self._calls = 0
            await trio.lowlevel.checkpoint()
        else:
            await trio.lowlevel.checkpoint_if_cancelled()

    def _check_sending(self) -> None:
        if self.core.failure is not None:
            raise self._broken()
        if self._closed or self.core.fin_wanted:
            raise trio.ClosedResourceError("this end of the stream has finished sending")

    def _broken(self) -> OverlayError:
        if self._refusal is not None:
            return ProtocolRefused(*self._refusal.args)
        return StreamBroken(f"the stream to {self._session.name} broke: {self.core.failure}")
