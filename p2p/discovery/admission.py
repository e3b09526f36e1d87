"""From a proven session to an admitted one: hello in both roles, bounded in time, with a logged reason.

A peer that has no hello, and none of our protocols but Kademlia, is a foreign libp2p program: it may be welcomed
as a guest. One that has other protocols of ours is a node, of another network or version; it is dropped, never a
guest.

Shared by all implementations of `Overlay`, which say how to open a stream on one particular session and how to
close it. `Discovery` is the `Admission` that they are given; without one every session is admitted at once.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Generic, Protocol

import structlog
import trio

from p2p.discovery.exchange import HelloRefused
from p2p.discovery.messages import Unfit, explain_refusal, is_of_a_node
from p2p.discovery.serving import OneAtATime
from p2p.discovery.sessions import S
from p2p.events import PeerDropped, logged
from p2p.overlay import OverlayError, PeerUnreachable, ProtocolRefused, StreamBroken, is_guest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from p2p.discovery.sessions import Sessions
    from p2p.events import Report
    from p2p.identity import NodeId
    from p2p.overlay import Stream

HELLO_TIMEOUT = 10.0
"""Seconds that a new session has to say hello, in either role."""

HELLO_PAUSE = 0.5
"""Seconds from an answered hello to the next one's answer on the same session. Each costs milliseconds: a peer that
says hello on all its streams, over and over, waits for itself."""
MAX_HELLOS = 4
"""Hellos of one session that are answered or wait; further ones are reset."""

GUEST_PATIENCE = 1.0
"""Seconds until a peer that dialled and said no hello is asked what it serves."""


_log = structlog.get_logger("p2p.hello")


class ThisNode(PeerUnreachable):
    """The address or id is this node's own."""


class Admission(Protocol):
    """Decides which peers this node talks to."""

    @property
    def protocol(self) -> str:
        """Return the protocol id of hello: the one protocol that is served before admission."""
        ...

    @property
    def network(self) -> str:
        """Return this node's network."""
        ...

    async def greet(self, stream: Stream) -> str:
        """Say hello as the one who opened `stream`; return the peer's agent. Raises HelloRefused."""
        ...

    async def answer(self, stream: Stream, admit: Callable[[str], None]) -> None:
        """Answer a hello; calls `admit` with the peer's agent before the answer goes out, if it fits.

        Raises:
            HelloRefused: it does not fit.
        """
        ...


class Door(Generic[S]):
    """Admits the sessions of one overlay, or closes them.

    Args:
        node: this node, for the log.
        open_stream: opens a stream on one particular session, admitted or not.
        served: what protocols the peer of a session serves, as far as can be found out; for the reason given.
        close: ends a session, at once.
        report: is told of who was not admitted, and why.
        welcome: admits a session as a guest's, or returns why not; None where there are no guests.
    """

    def __init__(
        self,
        sessions: Sessions[S],
        admission: Admission | None,
        *,
        node: NodeId,
        open_stream: Callable[[S, str], Awaitable[Stream]],
        served: Callable[[S], Awaitable[tuple[str, ...]]],
        close: Callable[[S, str], None],
        report: Report = logged,
        welcome: Callable[[S], str | None] | None = None,
    ) -> None:
        self._sessions = sessions
        self._admission = admission
        self._log = _log.bind(node=node)
        self._open_stream = open_stream
        self._served = served
        self._close = close
        self._report = report
        self._welcome = welcome
        self._turns = OneAtATime()
        self._hellos: Counter[S] = Counter()

    async def enter_dialled(self, session: S, peer: str) -> None:
        """Say hello on a session that this node dialled, and admit it: as a node, or as a guest.

        Args:
            peer: its name before that; a PeerId means that its key is no node's.

        Raises:
            PeerUnreachable: the peer does not fit, or did not answer; the session is closed.
        """
        if self._admission is None:
            self._sessions.admit(session)
            return
        try:
            with trio.fail_after(HELLO_TIMEOUT):
                if is_guest(peer):
                    raise ProtocolRefused(f"{peer} cannot say hello: its key is no node's")
                stream = await self._open_stream(session, self._admission.protocol)
                try:
                    agent = await self._admission.greet(stream)
                    await stream.aclose()
                except BaseException:
                    stream.reset()
                    raise
        except BaseException as error:
            unfit = await self._unfit(session, error)
            if unfit is None:
                return
            self._close(session, unfit.words)
            if not isinstance(error, HelloRefused | OverlayError | trio.TooSlowError):
                raise
            self._report(PeerDropped(peer, dialled=True, why=unfit.why, reason=unfit.words))
            raise PeerUnreachable(f"{peer} was reached, but {unfit.words}") from error
        self._sessions.admit(session, agent)
        if session not in self._sessions:
            raise PeerUnreachable(f"{peer} closed the session as it began")

    def accept(self, session: S, peer: str, nursery: trio.Nursery) -> None:
        """Wait for the hello of a session that the peer dialled, as a task of `nursery`."""
        if self._admission is None:
            self._sessions.admit(session)
        else:
            nursery.start_soon(self._await_hello, session, peer)

    async def _await_hello(self, session: S, peer: str) -> None:
        assert self._admission is not None
        unfit: Unfit | None = Unfit(
            "silent", f"it did not say hello on {self._admission.protocol} within {HELLO_TIMEOUT:g} s"
        )
        deadline = trio.current_time() + HELLO_TIMEOUT
        if self._welcome is not None:
            with trio.move_on_after(GUEST_PATIENCE):
                await self._sessions.admission(session)
            if self._waits(session):
                foreign = self._foreign(session, await self._protocols_of(session))
                if foreign is None or foreign.why in ("limit", "network"):
                    unfit, deadline = foreign, 0.0
        with trio.move_on_at(deadline):
            await self._sessions.admission(session)
        if self._waits(session) and unfit is not None:
            self._report(PeerDropped(peer, dialled=False, why=unfit.why, reason=unfit.words))
            self._close(session, unfit.words)

    def _waits(self, session: S) -> bool:
        return session in self._sessions and not self._sessions.is_admitted(session)

    async def answer(self, session: S, stream: Stream) -> None:
        """Serve a hello on a session of either role; the first one admits an accepted session."""
        assert self._admission is not None
        if is_guest(stream.peer):
            stream.reset()
            reason = "it says hello, though it was none of our nodes when it came, or its key is no node's"
            self._report(PeerDropped(stream.peer, dialled=False, why="stranger", reason=reason))
            self._close(session, reason)
            return
        if self._hellos[session] >= MAX_HELLOS:
            stream.reset()
            return
        self._hellos[session] += 1
        try:
            async with self._turns(session):
                await self._answer(session, stream)
                if session in self._sessions:
                    await trio.sleep(HELLO_PAUSE)
        finally:
            self._hellos[session] -= 1
            if not self._hellos[session]:
                del self._hellos[session]

    async def _answer(self, session: S, stream: Stream) -> None:
        assert self._admission is not None
        try:
            with trio.fail_after(HELLO_TIMEOUT):
                await self._admission.answer(stream, lambda agent: self._sessions.admit(session, agent))
                await stream.aclose()
        except (HelloRefused, trio.TooSlowError) as error:
            unfit = self._misfit(error)
            self._report(PeerDropped(stream.peer, dialled=False, why=unfit.why, reason=unfit.words))
            with trio.move_on_after(1):  # let the answer arrive, so that the peer can say why too
                await stream.aclose()
                await trio.sleep(0.5)
            self._close(session, unfit.words)

    async def _unfit(self, session: S, error: BaseException) -> Unfit | None:
        """Return why hello failed; None if the peer was welcomed as a guest instead."""
        assert self._admission is not None
        if not isinstance(error, ProtocolRefused | StreamBroken):
            return self._misfit(error)
        protocols = await self._protocols_of(session)
        # Hello is said together with its protocol's name: whoever does not know that may reset the stream at what
        # follows, and then its refusal is lost.
        if isinstance(error, StreamBroken) and (not protocols or self._admission.protocol in protocols):
            return self._misfit(error)
        return self._foreign(session, protocols)

    async def _protocols_of(self, session: S) -> tuple[str, ...]:
        protocols: tuple[str, ...] = ()
        with trio.move_on_after(HELLO_TIMEOUT / 2) as patience:
            protocols = await self._served(session)
        return () if patience.cancelled_caught else protocols

    def _foreign(self, session: S, protocols: tuple[str, ...]) -> Unfit | None:
        """Welcome a peer without hello as a guest, if it is one; else return why not."""
        assert self._admission is not None
        network = self._admission.network
        if self._welcome is None or not protocols or any(is_of_a_node(p, network) for p in protocols):
            return explain_refusal(network, protocols)
        reason = self._welcome(session)
        return None if reason is None else Unfit("limit", reason)

    @staticmethod
    def _misfit(error: BaseException) -> Unfit:
        match error:
            case HelloRefused():
                return Unfit(error.why, str(error))
            case trio.TooSlowError():
                return Unfit("silent", f"its hello was not complete within {HELLO_TIMEOUT:g} s")
            case _:
                return Unfit("broken", str(error) or type(error).__name__)
