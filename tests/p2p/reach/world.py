"""Nodes that are connected in memory, with real sessions, as `ReachHost`s on virtual time."""

from __future__ import annotations

import functools
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio
from trio.testing import memory_stream_pair

from p2p.entropy import SeededEntropy
from p2p.multiaddr import parse
from p2p.overlay import OverlayError, PeerUnreachable, ProtocolRefused
from p2p.protobuf import encode_bytes, frame
from p2p.reach.identify_wire import IDENTIFY
from p2p.session import (
    MemoryBudget,
    MuxedStream,
    NoiseIdentity,
    Secp256k1Identity,
    Session,
    SessionError,
    upgrade,
)
from p2p.testing.clock import VirtualClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Sequence

    from p2p.overlay import Direction, Path, Stream
    from p2p.reach.host import LinkHandler


class MemoryLink:
    def __init__(self, session: Session, address: str, direction: Direction, path: Path) -> None:
        self.session = session
        self.peer = session.name
        self.peer_id = session.peer_id
        self.address = address
        self.direction = direction
        self.path = path
        self.from_listening_port = direction == "out"
        self.retired = 0

    def __repr__(self) -> str:
        return f"<{self.path} link {self.direction} with {self.peer} at {self.address}>"

    @property
    def closed(self) -> bool:
        return self.session.ended is not None

    async def open_stream(self, protocol: str) -> Stream:
        return await self.session.open_stream(protocol)

    async def retire(self) -> None:
        self.retired += 1
        await self.session.aclose(1.0)


class MemoryHost:
    """One node. `outer` is where others see it; `open` whether its addresses can be dialled."""

    def __init__(self, world: World, number: int, address: str, outer: str, *, open_: bool) -> None:
        self.world = world
        self.key = Secp256k1Identity(bytes([number]) * 32)
        self.peer_id = self.key.public.peer_id
        self.node_id = str(self.key.public.node_id)
        self.address, self.outer, self.open = address, outer, open_
        self.entropy = SeededEntropy(number, "host")
        self.announced: list[str] = []
        self.kept: set[str] = set()
        self.handlers: dict[str, tuple[LinkHandler, bool]] = {}
        self.probes: list[str] = []
        self._links: list[MemoryLink] = []
        self._listeners: list[Callable[[], None]] = []
        self._identity = NoiseIdentity(self.key, self.entropy)
        self._budget = MemoryBudget()
        self.serve(IDENTIFY, self._identify)

    @property
    def full_address(self) -> str:
        return f"{self.outer}/p2p/{self.peer_id}"

    def listening(self) -> Sequence[str]:
        return [self.address]

    def links(self) -> Sequence[MemoryLink]:
        return list(self._links)

    def link_with(self, other: MemoryHost, path: Path = "direct") -> MemoryLink:
        return next(one for one in self._links if one.peer == other.node_id and one.path == path)

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        self._listeners.append(listener)
        return functools.partial(self._listeners.remove, listener)

    def serve(self, protocol: str, handler: LinkHandler, *, before_hello: bool = False) -> None:
        self.handlers[protocol] = handler, before_hello

    def withdraw(self, protocol: str) -> None:
        del self.handlers[protocol]

    def announce(self, addresses: Sequence[str]) -> None:
        self.announced = list(addresses)

    def keep(self, peers: Collection[str]) -> None:
        self.kept = set(peers)

    def acceptable(self, address: str) -> bool:
        return not address.startswith(("/ip4/192.168.", "/ip4/10."))

    async def establish(
        self,
        stream: Any,
        *,
        initiator: bool,
        address: str,
        expected: str,
        path: Path,
        direction: Direction | None = None,
        admitted: bool = True,
    ) -> MemoryLink:
        session = await upgrade(
            stream,
            self._identity,
            initiator=initiator,
            entropy=self.entropy,
            budget=self._budget,
            expected=expected or None,
        )
        link = MemoryLink(session, address, direction or ("out" if initiator else "in"), path)
        self.world.nursery.start_soon(self._run, link, admitted)
        if admitted:
            self._links.append(link)
            self._changed()
        return link

    async def _run(self, link: MemoryLink, admitted: bool) -> None:
        def accept(stream: MuxedStream) -> None:
            self.world.nursery.start_soon(self._serve, link, stream, admitted)

        await link.session.run(accept)
        if admitted:
            self._links.remove(link)
            self._changed()

    async def _serve(self, link: MemoryLink, stream: MuxedStream, admitted: bool) -> None:
        try:
            protocol = await stream.respond(
                {name for name, (_, early) in self.handlers.items() if admitted or early}
            )
            await self.handlers[protocol][0](stream, link)
            await stream.aclose()
        except (OverlayError, ValueError, trio.TooSlowError, trio.ClosedResourceError) as error:
            self.world.failures.append(error)
            stream.reset()

    async def dial_shared(self, address: str) -> trio.SocketStream:
        raise OSError("nothing is dialled in memory")

    async def connect(self, address: str) -> None:
        for other in self.world.hosts:
            if address.endswith(other.peer_id) and other.open:
                await self.world.connect(self, other)
                return
        raise PeerUnreachable(f"nobody is at {address}")

    @asynccontextmanager
    async def probe(self, address: str, peer_id: str, protocol: str) -> AsyncIterator[Stream]:
        self.probes.append(address)
        host = next((h for h in self.world.hosts if h.outer == address and h.open), None)
        if host is None:
            raise OSError("nobody answers")
        link = await self.world.connect(self, host, admitted=False)
        try:
            yield await link.open_stream(protocol)
        finally:
            await link.session.aclose()

    def _changed(self) -> None:
        for listener in list(self._listeners):
            listener()

    async def _identify(self, stream: Stream, link: Any) -> None:
        message = encode_bytes(0x12, parse(self.address).encode())
        if link.path == "direct":
            message += encode_bytes(0x22, parse(link.address).encode())
        message += b"".join(encode_bytes(0x1A, name.encode()) for name in self.handlers)
        await stream.send_all(frame(message))


class World:
    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.hosts: list[MemoryHost] = []
        self.failures: list[Exception] = []
        self.clock = VirtualClock()

    def host(self, address: str, outer: str = "", *, open_: bool = True) -> MemoryHost:
        host = MemoryHost(self, len(self.hosts) + 1, address, outer or address, open_=open_)
        self.hosts.append(host)
        return host

    async def connect(
        self, one: MemoryHost, other: MemoryHost, *, admitted: bool = True, seen: str = ""
    ) -> MemoryLink:
        """Have `one` dial `other`, who sees it at `seen`."""
        near, far = memory_stream_pair()
        made: list[MemoryLink] = []

        async def accept() -> None:
            await other.establish(
                far, initiator=False, address=seen or one.outer, expected="", path="direct", admitted=admitted
            )

        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept)
            made.append(
                await one.establish(
                    near,
                    initiator=True,
                    address=other.outer,
                    expected=other.peer_id,
                    path="direct",
                    admitted=admitted,
                )
            )
        return made[0]

    async def until(self, happened: Callable[[], object], seconds: float = 60.0) -> None:
        """Wait, on virtual time, until something is so."""
        with trio.fail_after(seconds):
            while not happened():  # noqa: ASYNC110 - virtual time: it costs nothing
                await trio.sleep(0.05)


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    async with trio.open_nursery() as nursery:
        yield World(nursery)
        nursery.cancel_scope.cancel()


REFUSALS = (ProtocolRefused, SessionError)
