"""Relays and dial-backs with go-libp2p: our place at its relay, its place at ours, and each dialled back by the other."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio

from p2p.clock import SystemClock
from p2p.host import tcp
from p2p.multiaddr import parse
from p2p.reach.dial_back import DialBackClient, DialBackServer
from p2p.reach.puncher import Puncher
from p2p.reach.relay_client import RelayClient
from p2p.reach.relay_limits import RelayLimits
from p2p.reach.relay_server import RelayServer
from p2p.session import SessionError
from tests.interop.foreign import ForeignPeer, running
from tests.interop.matrix import ECHO
from tests.interop.ours import call_echo, echo, pattern_hash
from tests.interop.prepare import missing
from tests.p2p.reach.world import MemoryHost, MemoryLink, World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from p2p.overlay import Stream
    from p2p.reach.host import Link

SMALL, LARGE = 32 * 1024, 2**20
"""go-libp2p's relay carries 128 KiB each way by default."""

pytestmark = pytest.mark.skipif(missing("go") is not None, reason=str(missing("go")))


class TcpHost(MemoryHost):
    """A host whose links are TCP connections on loopback."""

    async def connect(self, address: str) -> None:
        await self.dial(address)

    async def dial(self, address: str, *, admitted: bool = True) -> MemoryLink:
        parts = {part.name: part.value for part in parse(address).parts}
        stream = await trio.open_tcp_stream(parts["ip4"], int(parts["tcp"]))
        return await self.establish(
            stream,
            initiator=True,
            address=f"/ip4/{parts['ip4']}/tcp/{parts['tcp']}",
            expected=parts.get("p2p", ""),
            path="direct",
            admitted=admitted,
        )

    async def dial_shared(self, address: str) -> trio.SocketStream:
        _, _, host, _, port = address.split("/")
        _, _, own_host, _, own_port = self.address.split("/")
        return await tcp.dial(
            tcp.Place(host, int(port)), tcp.Place(own_host, int(own_port)), only_from_there=True
        )

    async def accept(self, stream: trio.SocketStream) -> None:
        host, port = stream.socket.getpeername()
        try:
            await self.establish(
                stream, initiator=False, address=f"/ip4/{host}/tcp/{port}", expected="", path="direct"
            )
        except SessionError:  # where a hole is punched, one of two connections is given up
            return
        await trio.sleep_forever()  # the server closes the connection when this returns

    @asynccontextmanager
    async def probe(self, address: str, peer_id: str, protocol: str) -> AsyncIterator[Stream]:
        link = await self.dial(f"{address}/p2p/{peer_id}", admitted=False)
        try:
            yield await link.open_stream(protocol)
        finally:
            await link.session.aclose()

    def acceptable(self, address: str) -> bool:
        return True

    async def met(self, peer_id: str, path: str = "direct") -> MemoryLink:
        """Wait for a link with `peer_id`."""
        with trio.fail_after(30):
            while True:
                for link in self.links():
                    if link.peer_id == peer_id and link.path == path:
                        return link
                await trio.sleep(0.01)


class Ours:
    """Our part: a host with all of reach's services."""

    def __init__(self, host: TcpHost, nursery: trio.Nursery) -> None:
        self.host = host
        clock = SystemClock()
        self.client = RelayClient(host, lambda: None, clock=clock, entropy=host.entropy)
        self.client.start()
        nursery.start_soon(self.client.run)
        RelayServer(host, lambda: [host.full_address], lambda: None, clock=clock).start()
        self.dial_back = DialBackClient(host, entropy=host.entropy)
        self.dial_back.start()
        DialBackServer(host, clock=clock, entropy=host.entropy).start()
        puncher = Puncher(host, host.listening, clock=clock)
        puncher.start()
        nursery.start_soon(puncher.run)
        self.puncher = puncher
        host.serve(ECHO, self._echo)

    async def _echo(self, stream: Stream, link: Link) -> None:
        await echo(stream)


@asynccontextmanager
async def ours() -> AsyncIterator[Ours]:
    listeners = [await tcp.listen(tcp.Place("127.0.0.1", 0), shared=True)]
    port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        world = World(nursery)
        host = TcpHost(world, 9, f"/ip4/127.0.0.1/tcp/{port}", f"/ip4/127.0.0.1/tcp/{port}", open_=True)
        nursery.start_soon(trio.serve_listeners, host.accept, listeners)
        yield Ours(host, nursery)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def relay() -> AsyncIterator[ForeignPeer]:
    async with running("go", "ed25519", role="relay", seed=7) as peer:
        yield peer


@asynccontextmanager
async def hidden(seed: int = 8, role: str = "hidden") -> AsyncIterator[ForeignPeer]:
    async with running("go", "secp256k1", role=role, seed=seed) as peer:
        yield peer


async def test_our_place_at_their_relay(cell: Callable[[str, str], Any]) -> None:
    cell("reach   go   relays for us", "relay")
    async with ours() as near, relay() as far, hidden() as caller:
        await near.host.connect(far.address)
        near.client.want(1)
        near.client.know(near.host.links())
        with trio.fail_after(30):
            while not near.client.relays:  # noqa: ASYNC110 - real time, and the relay is another process
                await trio.sleep(0.01)
        (kept,) = near.client.relays
        assert kept.addresses[0].endswith(f"/p2p/{far.peer_id}/p2p-circuit/p2p/{near.host.peer_id}")

        assert await caller.do("dial", address=kept.addresses[0]) == near.host.peer_id
        link = await near.host.met(caller.peer_id, "relayed")
        assert await caller.do("limited", peer=near.host.peer_id) == [True]
        assert await caller.do("echo", peer=near.host.peer_id, bytes=SMALL) == pattern_hash(SMALL)
        await call_echo(await link.open_stream(ECHO), SMALL)


async def test_we_dial_through_their_relay(cell: Callable[[str, str], Any]) -> None:
    cell("reach   go   relays to go", "relay")
    async with ours() as near, relay() as far, hidden() as target:
        await target.do("dial", address=far.address)
        await target.do("reserve", address=far.address)
        stream = await near.client.open_circuit(f"{far.address}/p2p-circuit/p2p/{target.peer_id}")
        link = await near.host.establish(
            stream, initiator=True, address="", expected=target.peer_id, path="relayed"
        )
        await call_echo(await link.open_stream(ECHO), SMALL)


async def test_their_place_at_our_relay(cell: Callable[[str, str], Any]) -> None:
    cell("reach   we relay for go", "relay")
    async with ours() as near, hidden() as target, hidden(seed=10) as caller:
        place = await target.do("reserve", address=near.host.full_address)
        assert place["voucher"] == [near.host.peer_id, target.peer_id]
        assert place["addresses"] == [near.host.full_address]
        assert (place["seconds"], place["bytes"]) == (
            RelayLimits().circuit_seconds,
            RelayLimits().circuit_bytes,
        )
        through = f"{near.host.full_address}/p2p-circuit/p2p/{target.peer_id}"
        assert await caller.do("dial", address=through) == target.peer_id
        assert await caller.do("limited", peer=target.peer_id) == [True]
        assert await caller.do("echo", peer=target.peer_id, bytes=LARGE) == pattern_hash(LARGE)


async def test_they_have_us_punch(cell: Callable[[str, str], Any]) -> None:
    """We reach a go peer through a relay; it asks for a hole, and both dial."""
    cell("reach   go   asks us", "DCUtR")
    async with ours() as near, relay() as far, hidden(role="punching") as target:
        await target.do("dial", address=far.address)
        await target.do("reserve", address=far.address)
        stream = await near.client.open_circuit(f"{far.address}/p2p-circuit/p2p/{target.peer_id}")
        await near.host.establish(stream, initiator=True, address="", expected=target.peer_id, path="relayed")
        link = await near.host.met(target.peer_id)
        await call_echo(await link.open_stream(ECHO), LARGE)


async def test_we_have_them_punch(cell: Callable[[str, str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A go peer reaches us through a relay; we ask for a hole, and both dial."""
    cell("reach   we ask go", "DCUtR")

    async def cannot_be_dialled(puncher: Puncher, link: Link) -> bool:
        return False

    monkeypatch.setattr(Puncher, "_unilateral", cannot_be_dialled)
    async with ours() as near, relay() as far, hidden(role="punching") as caller:
        await near.host.connect(far.address)
        near.client.want(1)
        near.client.know(near.host.links())
        with trio.fail_after(30):
            while not near.client.relays:  # noqa: ASYNC110 - real time, and the relay is another process
                await trio.sleep(0.01)
        await caller.do("dial", address=near.client.addresses[0])
        link = await near.host.met(caller.peer_id)
        await call_echo(await link.open_stream(ECHO), LARGE)
        with trio.fail_after(30):
            while near.puncher.outcomes.get(link.peer) != "punched":  # noqa: ASYNC110 - likewise
                await trio.sleep(0.01)


async def test_they_dial_us_back(cell: Callable[[str, str], Any]) -> None:
    cell("reach   go   dials us back", "AutoNAT v2")
    async with ours() as near, relay() as far:
        link = await near.host.dial(far.address)
        assert await near.dial_back.ask(link, [near.host.address]) == (near.host.address, True)
        closed = "/ip4/127.0.0.1/tcp/1"
        assert await near.dial_back.ask(link, [closed]) == (closed, False)


async def test_we_dial_them_back(cell: Callable[[str, str], Any]) -> None:
    cell("reach   we dial go back", "AutoNAT v2")
    async with ours() as near, relay() as far:
        await far.do("dial", address=near.host.full_address)
        address = far.address.partition("/p2p/")[0]
        assert await far.do("reachable", address=address) == "Public"
