"""`Session`: Noise and yamux driven over a byte stream by two tasks.

    session = await upgrade(stream, identity, initiator=True, entropy=entropy, budget=budget)
    nursery.start_soon(session.run, on_stream)      # reads and writes until the session ends
    stream = await session.open_stream("/golem-p2p/devnet/bus/1")
    ...
    await session.aclose()

The reader takes all complete records of what has arrived, has the core sort them, and wakes who waits. The writer
sends what the core has, as few and as full records as it can; a stream that queues much has it sent at once where
the socket allows. Nothing here raises for what a peer does: `run` returns, and `ended` says why.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
import trio

from p2p.overlay import OverlayError, StreamBroken
from p2p.session.errors import ProtocolError, SessionEnded, SessionError
from p2p.session.frames import NORMAL
from p2p.session.records import RECORDS_AT_A_TIME, sealed_size
from p2p.session.stream import MuxedStream
from p2p.session.wire import FLUSH_BYTES, Wire, scratch
from p2p.waiting import Waiter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from p2p.identity import NodeId
    from p2p.session.flow import YamuxStream
    from p2p.session.identity import PeerKey
    from p2p.session.multistream import Proposal
    from p2p.session.records import Opener, Sealer
    from p2p.session.yamux import Yamux

MAX_UNACKNOWLEDGED = 256
"""Streams that may wait for the peer's first answer; go-libp2p resets those beyond."""
WRITE_TIMEOUT = 60.0
"""Seconds that the peer may take nothing off the wire."""
CLOSE_TIMEOUT = 1.0
"""Seconds to send what is queued and to hear the other end hang up."""

_log = structlog.get_logger("p2p.session")


class Session:
    """A connection with a proven peer, and the streams on it. Made by `upgrade`.

    Args:
        wire: what carries it.
        keys: the record layer.
        peer_key: who is at the other end.
        core: its yamux.
        proposal: the negotiation of yamux, whose answer has not come.
        plain: what was decrypted already.
    """

    def __init__(
        self,
        wire: Wire,
        keys: tuple[Sealer, Opener],
        peer_key: PeerKey,
        core: Yamux,
        *,
        proposal: Proposal | None = None,
        plain: bytes = b"",
    ) -> None:
        self.core = core
        self.peer_key = peer_key
        self.peer_id = peer_key.peer_id
        """The peer's libp2p PeerId."""
        self.name: str = peer_key.node_id or self.peer_id
        """Who the peer is, for messages and as `MuxedStream.peer`; the host gives guests their PeerId for a name."""
        self.ended: str | None = None
        """Why the session is over; None while it is not."""
        self.confirmed: set[str] = set()
        """Protocols that the peer has agreed to on this session; bounded by what this end proposes."""
        self._wire = wire
        self._sealer, self._opener = keys
        self._proposal = proposal
        self._plain = plain
        self._streams: dict[int, MuxedStream] = {}
        self._accept: Callable[[MuxedStream], None] | None = None
        self._work = Waiter()
        self._blocked = False
        self._prompt = True
        self._closing = False
        self._over = trio.Event()
        self._drained: trio.Event | None = None
        self._acknowledged = trio.lowlevel.ParkingLot()
        self._scope: trio.CancelScope | None = None

    def __repr__(self) -> str:
        return f"<Session with {self.name}{'' if self.ended is None else ', over'}>"

    @property
    def peer(self) -> NodeId:
        """Return the peer's NodeId.

        Raises:
            OverlayError: its identity is not a secp256k1 key, so it is no node.
        """
        node_id = self.peer_key.node_id
        if node_id is None:
            raise OverlayError(f"{self.name} is no node: its identity is an Ed25519 key")
        return node_id

    @property
    def rtt(self) -> float | None:
        """Return the smoothed round trip in seconds, once it was measured."""
        return self.core.rtt

    @property
    def local_port(self) -> int | None:
        """Return the TCP port at this end; None if the session is not on a socket."""
        return self._wire.local_port()

    @property
    def stream_count(self) -> int:
        """Return how many streams are open."""
        return len(self.core.streams)

    @property
    def speaking(self) -> Sequence[str]:
        """Return the protocols of the open streams; empty text for one that has not been agreed on."""
        return [stream.protocol for stream in self._streams.values()]

    async def run(self, accept: Callable[[MuxedStream], None]) -> None:
        """Carry the session until it ends; then all its streams are broken and its wire is closed.

        Args:
            accept: called with each stream that the peer opens; must not block. It has to close the stream.
        """
        self._accept = accept
        if self.ended is not None:  # closed before it could run
            await trio.lowlevel.checkpoint()
            return
        try:
            async with trio.open_nursery() as nursery:
                self._scope = nursery.cancel_scope
                nursery.start_soon(self._until_it_ends, self._write)
                await self._until_it_ends(self._read)
        finally:
            self._end("it was given up")
            with trio.CancelScope(shield=True):
                await self._wire.close()
            self._over.set()

    async def open_stream(self, protocol: str, *, lazy: bool | None = None) -> MuxedStream:
        """Open a stream that speaks `protocol`.

        Args:
            lazy: do not wait for the peer's agreement; a refusal is then raised by a later read or write.
                None: lazy if the peer has agreed to the protocol on this session before.

        Raises:
            ProtocolRefused: the peer does not serve it.
            StreamBroken: the session is over or closing.
            TooManyStreams: this end has as many streams open as it may.
        """
        while self.core.unacknowledged >= MAX_UNACKNOWLEDGED and self.ended is None:
            await self._acknowledged.park()
        stream = self._open()
        try:
            stream.propose(protocol)
            if not (protocol in self.confirmed if lazy is None else lazy):
                await stream.negotiated()
        except BaseException:
            stream.reset()
            raise
        return stream

    def doubt(self) -> None:
        """Ask the peer at once whether it is there; if it is not, the session ends after `ping_timeout`."""
        if self.ended is None:
            self.core.ping_soon(trio.current_time())
            self._work.wake()

    async def aclose(self, drain: float = 0.0) -> None:
        """End the session in order: say so, send what is queued, hang up. Takes `drain` + 1 seconds at most.

        Args:
            drain: seconds that streams which are open may take to finish.
        """
        with trio.CancelScope(shield=True):
            if self._scope is None or self.ended is not None:
                self._end("this end closed it")
                await self._wire.close()
                return
            self.core.go_away()
            self.wake_writer()
            if drain > 0 and self.core.streams:
                self._drained = trio.Event()
                with trio.move_on_after(drain):
                    await self._drained.wait()
            self._closing = True
            self.wake_writer()
            with trio.move_on_after(CLOSE_TIMEOUT):
                await self._over.wait()
            self._fail("this end closed it")
            await self._over.wait()

    # What streams call.

    def wake_writer(self) -> None:
        """Have what the core has to send sent soon, together with what else comes up until then."""
        self._work.wake()

    def send_soon(self) -> None:
        """Send what was queued last: at once if it is the first since something was read, else with what comes up.

        A question or an answer that is alone does not wait for the writer's turn, and many still go together.
        """
        if self._prompt and self._wire.direct and not self._blocked and self.ended is None:
            self._prompt = False
            try:
                self._send_now()
            except OSError as error:
                self._fail(f"the connection broke: {error}")
            if not self._blocked:
                return
        self._work.wake()

    async def flush(self, queued: int) -> bool:
        """Send much at once where the socket takes it, little soon; return whether other tasks could run."""
        if self.core.queued < FLUSH_BYTES - 65_536 or not self._wire.direct or self._blocked:
            self.send_soon()
            return False
        try:
            self._send_now()
        except OSError as error:
            self._fail(f"the connection broke: {error}")
        self._work.wake()
        await trio.lowlevel.checkpoint()
        return True

    def acknowledge(self, stream: YamuxStream) -> None:
        """Tell the peer that its stream was accepted, since no data does."""
        self.core.announce(stream)
        self._work.wake()

    def credit_given(self) -> None:
        """Send credit that reading may have given."""
        if self.core.has_data():
            self._work.wake()
        if self.core.news:
            self.dispatch()

    def dispatch(self) -> None:
        """Wake those for whom the core has news, and start those who were accepted."""
        core = self.core
        while core.news:
            news, core.news = core.news, {}
            for changed in news:
                stream = self._streams.get(changed.id)
                if stream is None or stream.core is not changed:
                    continue
                stream.wake()
                if changed.over:
                    del self._streams[changed.id]
        while core.accepted:
            accepted = core.accepted.popleft()
            if accepted.failure is None:
                self._start(self._stream(accepted))
        if self._acknowledged and core.unacknowledged < MAX_UNACKNOWLEDGED:
            self._acknowledged.unpark_all()
        if self._drained is not None and not core.streams:
            self._drained.set()
        if core.has_data():
            self._work.wake()

    # Within.

    def _open(self) -> MuxedStream:
        if self.ended is not None:
            raise StreamBroken(f"the session with {self.name} is over: {self.ended}")
        try:
            return self._stream(self.core.open_stream(trio.current_time()))
        except SessionEnded as error:
            raise StreamBroken(f"the session with {self.name} is closing") from error

    def _stream(self, core: YamuxStream) -> MuxedStream:
        stream = self._streams[core.id] = MuxedStream(self, core)
        return stream

    def _start(self, stream: MuxedStream) -> None:
        assert self._accept is not None
        try:
            self._accept(stream)
        except Exception:
            _log.exception("a stream could not be accepted", peer=self.name)
            stream.reset()

    async def _until_it_ends(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do one half of the work; when it ends, so does the other."""
        try:
            await work()
        except ProtocolError as error:
            _log.debug("a peer broke the rules", peer=self.name, error=str(error))
            self._fail(f"the peer broke the rules: {error}")
            self._say_goodbye()
        except SessionError as error:
            self._fail(str(error))
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._fail(f"the connection broke: {error.__cause__ or error!r}")
        except Exception as error:  # a fault of this package must not reach other sessions
            _log.exception("a session failed", peer=self.name)
            self._fail(f"it failed: {error!r}")

    def _fail(self, reason: str) -> None:
        if self.ended is None:
            self.ended = reason
        if self._scope is not None:
            self._scope.cancel()

    def _end(self, reason: str) -> None:
        if self.ended is None:
            self.ended = reason
        self.core.end(f"the session is over: {self.ended}")
        for stream in list(self._streams.values()):
            stream.wake()
        self._streams.clear()
        self.core.news.clear()
        self._acknowledged.unpark_all()
        if self._drained is not None:
            self._drained.set()

    # Reading.

    async def _read(self) -> None:
        wire = self._wire
        if self._plain:
            plain, self._plain = self._plain, b""
            await self._take(plain)
            self.dispatch()
        while True:
            data = await wire.read()
            if data is None:
                raise SessionEnded(
                    "this end closed it" if self._closing else "the peer closed the connection"
                )
            self._prompt = True
            plains, used = self._opener.open(data)
            wire.keep(data[used:], again=len(plains) == RECORDS_AT_A_TIME)
            try:
                for plain in plains:
                    await self._take(plain if self._proposal is None else self._negotiate(plain))
            finally:
                self.dispatch()
            if self.core.remote_gone not in (None, NORMAL):
                raise SessionEnded(f"the peer ended it with code {self.core.remote_gone}")
            if self.core.remote_gone is not None and not self.core.streams:
                raise SessionEnded("the peer closed it")

    async def _take(self, plain: bytes) -> None:
        """Have the core take a record; of one with very many frames, some at a time."""
        taken = self.core.receive(plain, trio.current_time())
        while taken < len(plain):
            self.dispatch()
            await trio.lowlevel.checkpoint()
            taken += self.core.receive(memoryview(plain)[taken:], trio.current_time())

    def _negotiate(self, plain: bytes) -> bytes:
        """Hear the answer to the proposal of yamux; return what came after it."""
        assert self._proposal is not None
        rest = self._proposal.receive(plain)
        if rest is None:
            return b""
        self._proposal = None
        return rest

    # Writing.

    async def _write(self) -> None:
        core, wire = self.core, self._wire
        while True:
            now = trio.current_time()
            if now >= core.next_tick():
                core.tick(now)
                self.dispatch()
            with trio.move_on_after(WRITE_TIMEOUT) as patience:
                await self._flush_all()
            if patience.cancelled_caught:
                raise SessionEnded(f"the peer has taken nothing off the wire for {WRITE_TIMEOUT:g} s")
            if self._closing and not core.has_data():
                if not await wire.finish():
                    raise SessionEnded("this end closed it")
                await trio.sleep_forever()  # the reader hears the other end hang up; `aclose` bounds it
            with trio.move_on_at(core.next_tick()):
                await self._work.wait()

    async def _flush_all(self) -> None:
        core, wire = self.core, self._wire
        while True:
            if self._blocked:
                await wire.send_rest()
                self._blocked = False
            if not core.has_data():
                return
            if wire.direct:
                self._send_now()
                continue
            pieces, size = core.data_to_send(FLUSH_BYTES)
            sealed = memoryview(bytearray(sealed_size(size)))
            self._sealer.seal(pieces, sealed)
            self.dispatch_sent()
            await wire.send(sealed)

    def _send_now(self) -> None:
        """Send until there is nothing left, or the socket is full: the writer goes on from there."""
        while self.core.has_data():
            pieces, _ = self.core.data_to_send(FLUSH_BYTES)
            buffer = scratch().outgoing
            size = self._sealer.seal(pieces, buffer)
            if not self._wire.send_now(buffer[:size]):
                self._blocked = True
                break
        self.dispatch_sent()

    def dispatch_sent(self) -> None:
        """Wake streams that may queue more."""
        if self.core.news:
            self.dispatch()

    def _say_goodbye(self) -> None:
        """Tell the peer that it broke the rules, if the socket takes it."""
        if self._wire.direct and not self._blocked:
            buffer = scratch().outgoing
            size = self._sealer.seal([self.core.abort_frame()], buffer)
            try:
                self._wire.send_now(buffer[:size])
            except OSError:
                _log.debug("the peer was gone before it was told", peer=self.name)
