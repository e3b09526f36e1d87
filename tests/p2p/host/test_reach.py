"""The overlay as reach sees it, on loopback sockets: dial-backs, relays, and relayed sessions that become direct."""

from __future__ import annotations

import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import structlog
import trio

from p2p.overlay import OverlayError, ProtocolRefused
from p2p.reach.autonat_wire import DIAL_BACK, DIAL_REQUEST
from p2p.reach.punch_wire import DCUTR
from p2p.reach.relay_server import RelayServer
from p2p.reach.relay_wire import HOP, STOP
from p2p.reach.service import ReachService, ReachSettings
from p2p.testing.conformance import eventually
from tests.p2p.host.nodes import make, works

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from p2p.host import LibP2POverlay

OFF = ReachSettings(relay_client=False, relay_server="off", hole_punching=False)
RELAYED = ReachSettings(relay_server="off", hole_punching=False)


def reach_of(overlay: LibP2POverlay, settings: ReachSettings = OFF) -> ReachService:
    """Return what reaches and is reached for an overlay; it still has to run."""
    service = ReachService(
        overlay.reach_host, clock=overlay._clock, entropy=overlay._entrance._entropy, settings=settings
    )
    overlay.dial_relayed = service.open_circuit
    return service


@asynccontextmanager
async def scene(
    settings: ReachSettings = RELAYED,
) -> AsyncIterator[tuple[LibP2POverlay, LibP2POverlay, LibP2POverlay]]:
    """A relay, a node that keeps a place there, and one that wants to reach that node and knows nothing else of it."""
    async with (
        make().running() as relay,
        make().running() as target,
        make().running() as caller,
        trio.open_nursery() as nursery,
    ):
        # No more than a relay: one that dialled back would have the others find that they need none.
        RelayServer(relay.reach_host, relay.listen_addresses, lambda: None, clock=relay._clock).start()
        kept, wanting = reach_of(target, settings), reach_of(caller, settings)
        for service in (kept, wanting):
            nursery.start_soon(service.run)
        await target.connect(relay.listen_addresses()[0])
        await eventually(lambda: bool(kept.relays.relays))
        yield relay, target, caller
        nursery.cancel_scope.cancel()


def circuit(relay: LibP2POverlay, target: LibP2POverlay) -> str:
    return f"{relay.listen_addresses()[0]}/p2p-circuit/p2p/{target.reach_host.peer_id}"


def paths(one: LibP2POverlay, other: LibP2POverlay) -> list[str]:
    return [link.path for link in one.reach_host.links() if link.peer == other.node_id]


async def test_a_node_finds_out_that_it_can_be_dialled() -> None:
    async with make().running() as a, make().running() as b, trio.open_nursery() as nursery:
        services = [reach_of(a, ReachSettings()), reach_of(b)]
        for service in services:
            nursery.start_soon(service.run)
        await a.connect(b.listen_addresses()[0])
        await eventually(lambda: all(s.verdict.state == "public" for s in services), 20)
        assert services[0].verdict.family("ip4").mapping == "none"
        assert services[0].verdict.serves_as_relay
        assert HOP in a._host.served
        assert HOP not in b._host.served
        await eventually(
            lambda: (len(a._sessions), len(b._sessions)) == (1, 1)
        )  # those of the dial-backs are gone
        nursery.cancel_scope.cancel()


async def test_a_session_through_a_relay_carries_streams_and_stays_while_nothing_is_punched() -> None:
    async with scene() as (relay, target, caller):
        assert await caller.connect(circuit(relay, target)) == target.node_id
        assert paths(caller, target) == ["relayed"]
        await eventually(lambda: paths(target, caller) == ["relayed"])
        assert [p.path for p in caller.peers() if p.node_id == target.node_id] == ["relayed"]
        await eventually(lambda: target.keeps(relay.node_id))
        await caller.disconnect(target.node_id)
        await eventually(lambda: paths(target, caller) == [])


async def test_a_relayed_session_becomes_direct_and_ends() -> None:
    async with scene(ReachSettings(relay_server="off")) as (relay, target, caller):
        await caller.connect(circuit(relay, target))
        await eventually(lambda: paths(caller, target) == paths(target, caller) == ["direct"], 20)


async def test_a_relay_is_not_ended_to_make_room() -> None:
    async with scene() as (relay, target, _):
        (session,) = (s for s in target._sessions.all() if s.peer == relay.node_id)
        await eventually(lambda: session.held().streams >= 1)


async def test_a_withdrawn_protocol_is_not_served() -> None:
    async with make().running() as a, make().running() as b:

        async def serve(stream: object, link: object) -> None: ...

        b.reach_host.serve("/x/1", serve)  # type: ignore[arg-type]
        await a.connect(b.listen_addresses()[0])
        (await a.open_stream(b.node_id, "/x/1")).reset()
        b.reach_host.withdraw("/x/1")
        stream = await a.open_stream(b.node_id, "/x/1")
        with pytest.raises(ProtocolRefused):
            await stream.receive_some()


async def test_only_what_is_served_early_is_served_before_hello() -> None:
    async with make().running() as a, make().running() as b:
        heard: list[str] = []

        async def serve(stream: object, link: object) -> None:
            heard.append(str(stream))

        b.reach_host.serve("/early/1", serve, before_hello=True)  # type: ignore[arg-type]
        b.reach_host.serve("/late/1", serve)  # type: ignore[arg-type]
        place = b.reach_host.listening()[0]
        async with a.reach_host.probe(place, b.reach_host.peer_id, "/early/1") as stream:
            assert await stream.receive_some() == b""
        assert len(heard) == 1
        with trio.move_on_after(0.5):
            async with a.reach_host.probe(place, b.reach_host.peer_id, "/late/1") as stream:
                await stream.receive_some()
        assert len(heard) == 1
        assert not a.reach_host.links()
        await eventually(lambda: len(b._sessions) == 0)


@pytest.mark.parametrize("address", ["/dns4/localhost/tcp/1", "nonsense", "/ip4/127.0.0.1/udp/1"])
async def test_what_is_no_place_is_not_dialled(address: str) -> None:
    async with make().running() as a:
        with pytest.raises(OSError, match=r"address|name"):
            await a.reach_host.dial_shared(address)


async def test_somebody_else_is_not_linked_with() -> None:
    async with make().running() as a, make().running() as b:
        stream = await trio.open_tcp_stream("127.0.0.1", int(b.reach_host.listening()[0].rpartition("/")[2]))
        with pytest.raises(OverlayError):
            await a.reach_host.establish(
                stream, initiator=True, address="", expected=a.reach_host.peer_id, path="direct"
            )
        assert not a.reach_host.links()


PROTOCOLS = (HOP, STOP, DCUTR, DIAL_REQUEST, DIAL_BACK)


@pytest.mark.timeout(120)
async def test_garbage_on_every_protocol_of_reach_harms_nobody() -> None:
    chance = random.Random(1)
    async with make().running() as a, make().running() as b, trio.open_nursery() as nursery:
        nursery.start_soon(reach_of(b, ReachSettings(relay_server="on")).run)
        await a.connect(b.listen_addresses()[0])
        await eventually(lambda: set(PROTOCOLS) <= set(b._host.served))

        async def throw(protocol: str) -> None:
            try:
                stream = await a.open_stream(b.node_id, protocol)
                body = chance.randbytes(chance.randrange(60))
                prefix = bytes([len(body)]) if chance.random() < 0.7 else b"\xff" * chance.randrange(6)
                await stream.send_all(prefix + body)
                if chance.random() < 0.5:
                    await stream.send_eof()
                    with trio.move_on_after(0.02):
                        await stream.receive_some()
                stream.reset()
            except OverlayError:
                return

        with structlog.testing.capture_logs() as logs:
            for number in range(2000):
                await throw(PROTOCOLS[number % len(PROTOCOLS)])
        assert not [entry for entry in logs if entry["log_level"] in ("warning", "error")]
        await works(a, b)
        assert b.reach_host.links()
        nursery.cancel_scope.cancel()


@pytest.mark.timeout(120)
async def test_circuits_that_come_and_go_leave_nothing() -> None:
    async with scene() as (relay, target, caller):

        async def cycle() -> None:
            await caller.connect(circuit(relay, target))
            await eventually(lambda: paths(target, caller) == ["relayed"])
            await caller.disconnect(target.node_id)
            await eventually(lambda: paths(target, caller) == paths(caller, target) == [])

        for _ in range(5):
            await cycle()
        await settled(tasks)
        before = tasks()
        for _ in range(40):
            await cycle()
        await settled(tasks)
        assert tasks() <= before
        assert [relay._gate.total, target._gate.total, caller._gate.total] == [2, 1, 1]


def tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living


async def settled(value: Callable[[], int]) -> None:
    """Wait until a number has not changed for a second."""
    before, since = value(), trio.current_time()
    while trio.current_time() < since + 1:
        await trio.sleep(0.05)
        if value() != before:
            before, since = value(), trio.current_time()
