"""A peer that vanishes without FIN or RST, over real sockets: a wire in between that goes dead."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from p2p.session import YamuxSettings
from p2p.testing.conformance import check_vanished_peer, eventually
from tests.p2p.host.nodes import make, place_of, session_of, works

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

QUICK_TO_MISS = YamuxSettings(ping_interval=0.2, ping_timeout=0.3)


class DeadWire:
    """Passes bytes between a port of its own and another, until it is cut; then it holds both sockets, silently."""

    def __init__(self, port: int, target: tuple[str, int]) -> None:
        self.port = port
        self._target = target
        self._dead = False

    def cut(self) -> None:
        self._dead = True

    async def serve(self, near: trio.SocketStream) -> None:
        far = await trio.open_tcp_stream(*self._target)
        async with near, far, trio.open_nursery() as nursery:
            nursery.start_soon(self._pass_on, near, far)
            nursery.start_soon(self._pass_on, far, near)

    async def _pass_on(self, source: trio.SocketStream, sink: trio.SocketStream) -> None:
        async for data in source:
            if self._dead:
                await trio.sleep_forever()
            await sink.send_all(data)


@asynccontextmanager
async def wire_to(target: tuple[str, int]) -> AsyncIterator[DeadWire]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    wire = DeadWire(listener.socket.getsockname()[1], target)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, wire.serve, [listener])
        yield wire
        nursery.cancel_scope.cancel()


async def test_a_peer_that_vanishes() -> None:
    a, b = make(yamux=QUICK_TO_MISS), make()
    async with a.running(), b.running(), wire_to(place_of(b)) as wire:
        peer_id = b.listen_addresses()[0].rsplit("/", 1)[1]
        await a.connect(f"/ip4/127.0.0.1/tcp/{wire.port}/p2p/{peer_id}")
        await eventually(lambda: bool(b.peers()))
        await trio.sleep(1)  # pings are answered meanwhile, so that silence is what ends it
        assert a.peers()
        await check_vanished_peer(a, b, wire.cut, within=10)
        await b.disconnect(a.node_id)  # it has not noticed: nothing tells it
        await works(a, b)


async def test_a_peer_that_comes_back_has_its_dead_session_found_out() -> None:
    patient = YamuxSettings(ping_interval=1000.0, ping_timeout=0.3)
    a, b = make(yamux=patient), make()
    async with a.running(), b.running(), wire_to(place_of(b)) as wire:
        peer_id = b.listen_addresses()[0].rsplit("/", 1)[1]
        await a.connect(f"/ip4/127.0.0.1/tcp/{wire.port}/p2p/{peer_id}")
        await eventually(lambda: bool(b.peers()))
        dead = session_of(a, b)
        wire.cut()
        await b.disconnect(a.node_id)
        await b.connect(a.listen_addresses()[0])
        await eventually(lambda: dead.closed)
        assert [info.node_id for info in a.peers()] == [b.node_id]
        await works(a, b)
