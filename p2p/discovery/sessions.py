"""The sessions of an overlay: which are still saying hello, which are admitted, which one to use.

Synchronous bookkeeping, shared by all implementations of `Overlay`. A peer may have several sessions (both
dialled at once, or it restarted and its old session has not died yet): the newest carries new streams, a direct
one before one through a relay, and listeners hear of a peer once. Protocols see admitted sessions only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec
import structlog
import trio

from p2p.events import PeerConnected, PeerDisconnected, unreported
from p2p.overlay import PeerChange, PeerInfo, is_guest

if TYPE_CHECKING:
    from collections.abc import Callable

    from p2p.events import Report

S = TypeVar("S")
"""An implementation's session; hashable by identity."""

_log = structlog.get_logger("p2p.sessions")


class _Entry:
    def __init__(self, info: PeerInfo) -> None:
        self.info = info
        self.admitted = False
        self.decided = trio.Event()


class Sessions(Generic[S]):
    """The table of sessions of one overlay.

    Args:
        report: is told when peers come and go.
    """

    def __init__(self, report: Report = unreported) -> None:
        self._report = report
        self._entries: dict[S, _Entry] = {}
        self._admitted: dict[str, list[S]] = {}
        self._listeners: dict[object, tuple[Callable[[PeerChange], None], bool]] = {}
        self._watchers: dict[object, Callable[[], None]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, session: S) -> bool:
        return session in self._entries

    def open(self, session: S, info: PeerInfo) -> None:
        """Enter a session whose peer is proven but has not been admitted."""
        self._entries[session] = _Entry(info)

    def admit(self, session: S, agent: str = "", *, guest: str = "") -> None:
        """Let protocols see the session; does nothing if it has ended or is admitted.

        Args:
            guest: the PeerId of a peer that is admitted as a guest: from now on its name.
        """
        entry = self._entries.get(session)
        if entry is None or entry.admitted:
            return
        entry.admitted = True
        entry.info = msgspec.structs.replace(entry.info, agent=agent, node_id=guest or entry.info.node_id)
        entry.decided.set()
        peer = entry.info.node_id
        first = peer not in self._admitted
        self._admitted.setdefault(peer, []).append(session)
        self._tell_watchers()
        if first:
            self._report(PeerConnected(peer, entry.info.address, entry.info.direction, entry.info.path))
            self._tell(PeerChange(node_id=peer, connected=True))

    def end(self, session: S, reason: str = "") -> None:
        """Take a session out; the last one's end is told as the peer's.

        Args:
            reason: why it ended, for people.
        """
        entry = self._entries.pop(session, None)
        if entry is None:
            return
        entry.decided.set()
        if entry.admitted:
            peer = entry.info.node_id
            left = self._admitted[peer]
            left.remove(session)
            self._tell_watchers()
            if not left:
                del self._admitted[peer]
                self._report(PeerDisconnected(peer, reason))
                self._tell(PeerChange(node_id=peer, connected=False))

    async def admission(self, session: S) -> bool:
        """Wait until the session is admitted (True) or ended (False)."""
        entry = self._entries.get(session)
        if entry is None:
            return False
        await entry.decided.wait()
        return session in self._entries

    def is_admitted(self, session: S) -> bool:
        """Return whether protocols may use the session."""
        entry = self._entries.get(session)
        return entry is not None and entry.admitted

    def newest(self, peer: str) -> S | None:
        """Return the admitted session that new streams to `peer` should take: the newest, direct ones first."""
        sessions = self._admitted.get(peer)
        return self._best(sessions) if sessions else None

    def of(self, peer: str) -> list[S]:
        """Return all sessions with `peer`, admitted or not."""
        return [session for session, entry in self._entries.items() if entry.info.node_id == peer]

    def all(self) -> list[S]:
        """Return all sessions, oldest first."""
        return list(self._entries)

    def peers(self) -> list[PeerInfo]:
        """Return the admitted nodes, each by its newest session, in the order of their admission."""
        return [self._entries[self._best(s)].info for peer, s in self._admitted.items() if not is_guest(peer)]

    def guests(self) -> list[PeerInfo]:
        """Return the admitted guests, likewise."""
        return [self._entries[self._best(s)].info for peer, s in self._admitted.items() if is_guest(peer)]

    def subscribe(
        self, listener: Callable[[PeerChange], None], *, guests: bool = False
    ) -> Callable[[], None]:
        """Call `listener` on every change of the admitted nodes, and of guests if asked; returns how to stop."""
        key = object()
        self._listeners[key] = listener, guests

        def stop() -> None:
            self._listeners.pop(key, None)

        return stop

    def watch(self, watcher: Callable[[], None]) -> Callable[[], None]:
        """Call `watcher` after every admission and every end of an admitted session; returns how to stop."""
        key = object()
        self._watchers[key] = watcher

        def stop() -> None:
            self._watchers.pop(key, None)

        return stop

    def _tell_watchers(self) -> None:
        for watcher in list(self._watchers.values()):
            watcher()

    def _best(self, sessions: list[S]) -> S:
        direct = (s for s in reversed(sessions) if self._entries[s].info.path == "direct")
        return next(direct, sessions[-1])

    def _tell(self, change: PeerChange) -> None:
        for listener, guests in list(self._listeners.values()):
            if is_guest(change.node_id) and not guests:
                continue
            try:
                listener(change)
            except Exception:
                _log.exception("a listener to peer changes failed", peer=change.node_id)
