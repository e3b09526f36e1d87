"""`HostReach`: the overlay's sessions as `p2p.reach` sees them. Implements `p2p.reach.host.ReachHost`."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from p2p.host.addresses import InvalidAddress, is_acceptable, parse_address
from p2p.host.entrance import UPGRADE_TIMEOUT
from p2p.host.tcp import Place, dial
from p2p.identity import NodeId
from p2p.overlay import PeerUnreachable, StreamBroken, is_guest
from p2p.protobuf import WireError
from p2p.session import MuxedStream, Secp256k1Identity

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Sequence

    from p2p.discovery import Door, Sessions
    from p2p.host.entrance import Entrance
    from p2p.host.limits import Gate
    from p2p.host.overlay import LibP2POverlay
    from p2p.host.sessions import HostSession
    from p2p.identity import PrivateKey
    from p2p.overlay import Direction, Path, Stream
    from p2p.reach.host import Link, LinkHandler
    from p2p.session import IdentityKey

RETIRE_SECONDS = 30.0
"""That streams on a session which is no longer needed have to finish."""
_RETIRE_POLL = 0.5


class HostLink:
    """A session as a `Link`."""

    def __init__(self, session: HostSession, ports: Sequence[int]) -> None:
        self._session = session
        self._ports = ports

    def __repr__(self) -> str:
        return f"<HostLink of {self._session!r}>"

    @property
    def peer(self) -> str:
        return self._session.peer

    @property
    def peer_id(self) -> str:
        return self._session.wire.peer_id

    @property
    def address(self) -> str:
        return self._session.address

    @property
    def direction(self) -> Direction:
        return self._session.direction

    @property
    def path(self) -> Path:
        return self._session.path

    @property
    def from_listening_port(self) -> bool:
        return self.direction == "out" and self._session.local_port in self._ports

    @property
    def closed(self) -> bool:
        return self._session.closed

    async def open_stream(self, protocol: str) -> Stream:
        return await self._session.open_stream(protocol)

    async def retire(self) -> None:
        # Waiting here and not in `close`, which is shielded: a node that stops must not wait for this.
        with trio.move_on_after(RETIRE_SECONDS):
            while self._session.wire.stream_count and not self.closed:  # noqa: ASYNC110 - no event tells of it
                await trio.sleep(_RETIRE_POLL)
        await self._session.close()


class HostReach:
    """What reach needs of an overlay.

    Args:
        sources: where the overlay listens.
        source_for: returns from where to dial a place, if that matters.
        early: the protocols that are served on sessions whose peer has not said hello.
    """

    def __init__(
        self,
        overlay: LibP2POverlay,
        key: PrivateKey,
        *,
        sessions: Sessions[HostSession],
        entrance: Entrance,
        door: Door[HostSession],
        gate: Gate,
        sources: Sequence[Place],
        source_for: Callable[[Place], Place | None],
        early: set[str],
    ) -> None:
        self._overlay = overlay
        self._key = Secp256k1Identity(key.secret)
        self._sessions = sessions
        self._entrance = entrance
        self._door = door
        self._gate = gate
        self._sources = sources
        self._source_for = source_for
        self._early = early
        self._links: dict[HostSession, HostLink] = {}

    @property
    def peer_id(self) -> str:
        return self._key.public.peer_id

    @property
    def key(self) -> IdentityKey:
        return self._key

    def listening(self) -> Sequence[str]:
        return [address.partition("/p2p/")[0] for address in self._overlay.interface_addresses()]

    def links(self) -> Sequence[Link]:
        admitted = (session for session in self._sessions.all() if self._sessions.is_admitted(session))
        sessions = [session for session in admitted if not is_guest(session.peer)]
        self._links = {session: self._link(session) for session in sessions}
        return [*self._links.values()]

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        return self._sessions.watch(listener)

    def serve(self, protocol: str, handler: LinkHandler, *, before_hello: bool = False) -> None:
        async def serve(stream: Stream) -> None:
            assert isinstance(stream, MuxedStream)
            carried = (session for session in self._sessions.all() if session.wire is stream.session)
            session = next(carried, None)
            if session is None:
                stream.reset()
                return
            try:
                await handler(stream, self._link(session))
            except WireError as error:
                raise StreamBroken(f"{session.peer} does not speak {protocol}: {error}") from error
            except trio.TooSlowError as error:
                raise StreamBroken(f"{session.peer} said nothing on {protocol} for too long") from error

        if before_hello:
            self._early.add(protocol)
        self._overlay.serve(protocol, serve)

    def withdraw(self, protocol: str) -> None:
        self._early.discard(protocol)
        self._overlay.withdraw(protocol)

    def announce(self, addresses: Sequence[str]) -> None:
        self._overlay.announce(addresses)

    def keep(self, peers: Collection[str]) -> None:
        for session in self._sessions.all():
            session.kept = session.peer in peers and session.path == "direct"

    def acceptable(self, address: str) -> bool:
        where = address.partition("/p2p/")[0]
        return is_acceptable(f"{where}/p2p/{self.peer_id}", allow_private=self._overlay.network == "devnet")

    async def establish(
        self,
        stream: trio.abc.HalfCloseableStream,
        *,
        initiator: bool,
        address: str,
        expected: str,
        path: Path,
    ) -> Link:
        with trio.move_on_after(UPGRADE_TIMEOUT):
            session = await self._entrance.establish(
                stream, initiator=initiator, address=address, expected=expected, path=path
            )
            if initiator:
                await self._door.enter_dialled(session, NodeId(session.peer))
            elif not await self._sessions.admission(session):
                raise PeerUnreachable(f"{session.peer} came, but its hello was not accepted")
            return self._link(session)
        raise PeerUnreachable(f"no session with {expected} within {UPGRADE_TIMEOUT:g} s")

    async def dial_shared(self, address: str) -> trio.SocketStream:
        place = self._place(address)
        source = self._source_for(place)
        if source is None:
            raise OSError(f"{address} cannot be dialled from the port that is listened on")
        return await dial(place, source, only_from_there=True)

    async def connect(self, address: str) -> None:
        await self._overlay.connect(address)

    @asynccontextmanager
    async def probe(self, address: str, peer_id: str, protocol: str) -> AsyncIterator[Stream]:
        stream = await dial(self._place(address))
        session = await self._entrance.establish(
            stream, initiator=True, address=address, expected=peer_id, path="direct"
        )
        try:
            yield await session.open_stream(protocol)
        finally:
            self._entrance.end(session, "it was only to see whether somebody is there")

    def _place(self, address: str) -> Place:
        """Return the IP address and port in a multiaddr. Raises OSError, also for one that is on the deny-list."""
        try:
            found = parse_address(address)
            if found.kind not in ("ip4", "ip6"):
                raise InvalidAddress(f"{address} is a name")
        except InvalidAddress as error:
            raise OSError(str(error)) from error
        refused = self._gate.refuses_place(found.host)
        if refused is not None:
            raise OSError(refused)
        return Place(found.host, found.port)

    def _link(self, session: HostSession) -> HostLink:
        return self._links.get(session) or HostLink(session, [source.port for source in self._sources])
