"""Relay server and client, with real sessions in memory."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio

from p2p.multiaddr import parse
from p2p.overlay import PeerUnreachable, StreamBroken
from p2p.reach import circuit
from p2p.reach.framing import Framed
from p2p.reach.judge import bare
from p2p.reach.relay_client import RelayClient, split
from p2p.reach.relay_limits import RelayLimits
from p2p.reach.relay_server import RelayServer
from p2p.reach.relay_wire import (
    HOP,
    MAX_MESSAGE_BYTES,
    STOP,
    HopMessage,
    Kind,
    Reservation,
    Status,
    StopMessage,
    Voucher,
    decode_hop,
    decode_stop,
    encode_hop,
    encode_stop,
    read_voucher,
    sign_voucher,
)
from p2p.session import HandshakeFailed
from tests.p2p.reach.world import MemoryHost, MemoryLink, World, world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ECHO = "/echo/1"


async def echo(stream: Any, link: Any) -> None:
    while data := await stream.receive_some():
        await stream.send_all(data)


class Scene:
    """A relay, and a target that keeps a place there."""

    def __init__(self, w: World, limits: RelayLimits) -> None:
        self.world = w
        self.relay = w.host("/ip4/198.51.100.1/tcp/4001")
        self.target = w.host("/ip4/192.168.1.5/tcp/4001", "/ip4/203.0.113.5/tcp/4001", open_=False)
        self.caller = w.host("/ip4/192.168.2.5/tcp/4001", "/ip4/203.0.113.6/tcp/4001", open_=False)
        self.server = RelayServer(
            self.relay, lambda: [self.relay.full_address], self._changed, clock=w.clock, limits=limits
        )
        self.server.start()
        self.changes = 0
        self.client = self._client(self.target)
        self.dialler = self._client(self.caller)
        self.target.serve(ECHO, echo)

    def _client(self, host: MemoryHost) -> RelayClient:
        client = RelayClient(host, self._changed, clock=self.world.clock, entropy=host.entropy)
        client.start()
        self.world.nursery.start_soon(client.run)
        return client

    def _changed(self) -> None:
        self.changes += 1

    async def reserve(self) -> None:
        await self.world.connect(self.target, self.relay)
        self.client.want(3)
        self.client.know([self.target.link_with(self.relay)])
        await self.world.until(lambda: self.client.relays)

    async def dial(self, address: str) -> MemoryLink:
        """Make a session through a relay, as the host's dialler does."""
        stream = await self.dialler.open_circuit(address)
        target = split(address)[2]
        return await self.caller.establish(
            stream, initiator=True, address=address, expected=target, path="relayed"
        )

    @property
    def circuit_address(self) -> str:
        return self.client.addresses[0]


@asynccontextmanager
async def scene(limits: RelayLimits | None = None, *, reserved: bool = True) -> AsyncIterator[Scene]:
    async with world() as w:
        made = Scene(w, limits or RelayLimits())
        if reserved:
            await made.reserve()
        yield made


async def test_circuits_of_one_relay_are_bounded(
    autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2p.reach.relay_client.MAX_CIRCUITS", 1)
    async with scene() as s:
        await s.dial(s.circuit_address)
        await s.world.until(lambda: len(s.target.links()) == 2)
        with pytest.raises(PeerUnreachable, match="CONNECTION_FAILED"):
            await s.dialler.open_circuit(s.circuit_address)
        await s.target.link_with(s.caller, "relayed").retire()
        await s.world.until(lambda: not s.client._circuits)
        assert (await s.dial(s.circuit_address)).peer == s.target.node_id


async def test_a_place_is_kept_and_announced(autojump_clock: Any) -> None:
    async with scene() as s:
        (relay,) = s.client.relays
        assert relay.peer == s.relay.node_id
        assert relay.addresses == (f"{s.relay.full_address}/p2p-circuit/p2p/{s.target.peer_id}",)
        assert relay.expires_ns > s.world.clock.utc_ns()
        assert s.changes == 2, "one for each end"
        assert s.server.ledger.peers() == {s.target.peer_id}


async def test_a_circuit_carries_a_session_between_two_that_cannot_be_dialled(autojump_clock: Any) -> None:
    async with scene() as s:
        link = await s.dial(s.circuit_address)
        assert (link.peer, link.path, link.direction) == (s.target.node_id, "relayed", "out")
        await s.world.until(lambda: len(s.target.links()) == 2)  # its end is made half a round trip later
        theirs = s.target.link_with(s.caller, "relayed")
        assert (theirs.peer_id, theirs.direction) == (s.caller.peer_id, "in")
        assert "/p2p-circuit" in theirs.address
        assert bare(theirs.address) == s.relay.outer
        stream = await link.open_stream(ECHO)
        data = bytes(range(256)) * 4096

        async def send() -> None:
            await stream.send_all(data)
            await stream.send_eof()

        received = bytearray()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            while piece := await stream.receive_some():
                received += piece
        assert received == data
        assert s.server.ledger.circuits == 1
        await theirs.retire()
        await s.world.until(lambda: link.closed)
        await s.world.until(lambda: s.server.ledger.circuits == 0)


async def test_places_are_refreshed_for_as_long_as_they_are_wanted(autojump_clock: Any) -> None:
    async with scene(RelayLimits(reservation_seconds=100)) as s:
        await trio.sleep(1000)
        assert len(s.client.relays) == 1
        assert s.client.relays[0].expires_ns > s.world.clock.utc_ns()
        await s.dial(s.circuit_address)
        s.client.want(0)
        assert s.client.relays == ()
        await trio.sleep(200)
        with pytest.raises(PeerUnreachable, match="NO_RESERVATION"):
            await circuit.dial(s.caller.link_with(s.relay), s.target.peer_id)


async def test_without_a_place_nobody_is_reached(autojump_clock: Any) -> None:
    async with scene(reserved=False) as s:
        await s.world.connect(s.target, s.relay)
        address = f"{s.relay.full_address}/p2p-circuit/p2p/{s.target.peer_id}"
        with pytest.raises(PeerUnreachable, match="NO_RESERVATION"):
            await s.dial(address)


async def test_a_place_ends_when_its_peer_goes(autojump_clock: Any) -> None:
    async with scene() as s:
        await s.target.link_with(s.relay).retire()
        await s.world.until(lambda: not s.relay.links())
        s.server.links_changed()
        assert s.server.ledger.peers() == set()
        s.client.know([])
        assert s.client.relays == ()


async def test_a_relay_that_stops_gives_no_new_places(autojump_clock: Any) -> None:
    async with scene(reserved=False) as s:
        s.server.stop()
        await s.world.connect(s.target, s.relay)
        s.client.want(3)
        s.client.know([s.target.link_with(s.relay)])
        await trio.sleep(5)
        assert s.client.relays == ()
        s.server.start()
        await s.world.until(lambda: s.client.relays, 120)


async def test_a_circuit_ends_at_its_limits(autojump_clock: Any) -> None:
    async with scene(RelayLimits(circuit_bytes=20_000, circuit_seconds=100)) as s:
        link = await s.dial(s.circuit_address)
        stream = await link.open_stream(ECHO)
        await stream.send_all(bytes(10_000))
        assert await stream.receive_some()

        async def send() -> None:
            for _ in range(100):
                await stream.send_all(bytes(10_000))
                await stream.receive_some()

        with pytest.raises(StreamBroken):
            await send()
        await s.world.until(lambda: link.closed)

        began = trio.current_time()
        link = await s.dial(s.circuit_address)
        await s.world.until(lambda: link.closed, 200)
        assert 100 <= trio.current_time() - began < 105
        assert s.server.ledger.circuits == 0


async def test_all_circuits_share_a_rate(autojump_clock: Any) -> None:
    async with scene(RelayLimits(bytes_per_second=100_000)) as s:
        link = await s.dial(s.circuit_address)
        stream = await link.open_stream(ECHO)
        began, received = trio.current_time(), 0

        async def send() -> None:
            await stream.send_all(bytes(500_000))
            await stream.send_eof()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            while data := await stream.receive_some():
                received += len(data)
        assert received == 500_000
        assert 9 < trio.current_time() - began < 15, "both directions of it count"


async def test_a_circuit_is_taken_from_a_relay_that_is_kept_and_from_no_other(autojump_clock: Any) -> None:
    async with scene() as s:
        await s.world.connect(s.caller, s.target)
        stream = await s.caller.link_with(s.target).open_stream(STOP)
        framed = Framed(stream, MAX_MESSAGE_BYTES)
        await framed.send(encode_stop(StopMessage(Kind.CONNECT, peer=s.relay.peer_id)))
        assert decode_stop(await framed.receive()).status is Status.PERMISSION_DENIED


async def test_the_relay_cannot_pass_another_off_as_the_target(autojump_clock: Any) -> None:
    """A relay that connects the caller to whom it likes is found out by Noise."""
    async with scene() as s:
        liar = s.world.host("/ip4/198.51.101.1/tcp/4001")
        await s.world.connect(s.caller, liar)

        async def lie(stream: Any, link: Any) -> None:
            framed = Framed(stream, MAX_MESSAGE_BYTES)
            await framed.receive()
            await framed.send(encode_hop(HopMessage(Kind.STATUS, status=Status.OK)))
            await liar.establish(
                circuit.CircuitStream(stream, framed.unread),
                initiator=False,
                address="",
                expected="",
                path="relayed",
            )

        liar.serve(HOP, lie)
        with pytest.raises(HandshakeFailed, match="was expected and"):
            await s.dial(f"{liar.full_address}/p2p-circuit/p2p/{s.target.peer_id}")
        assert not [link for link in s.caller.links() if link.path == "relayed"]


@pytest.mark.parametrize(
    "request_",
    [b"", b"\xff\xff", encode_hop(HopMessage(Kind.CONNECT)), encode_hop(HopMessage(Kind.STATUS))],
)
async def test_what_is_no_request_is_refused(autojump_clock: Any, request_: bytes) -> None:
    async with scene() as s:
        stream = await s.target.link_with(s.relay).open_stream(HOP)
        framed = Framed(stream, MAX_MESSAGE_BYTES)
        await framed.send(request_)
        answer = decode_hop(await framed.receive())
        assert answer.status in (Status.MALFORMED_MESSAGE, Status.UNEXPECTED_MESSAGE)


async def test_a_client_that_says_nothing_is_not_waited_for(autojump_clock: Any) -> None:
    async with scene() as s:
        stream = await s.target.link_with(s.relay).open_stream(HOP)
        answer = decode_hop(await Framed(stream, MAX_MESSAGE_BYTES).receive())
        assert answer.status is Status.MALFORMED_MESSAGE
        assert trio.current_time() < 15


async def test_a_place_comes_with_a_voucher_and_the_limits(autojump_clock: Any) -> None:
    async with scene() as s:
        stream = await s.target.link_with(s.relay).open_stream(HOP)
        framed = Framed(stream, MAX_MESSAGE_BYTES)
        await framed.send(encode_hop(HopMessage(Kind.RESERVE)))
        answer = decode_hop(await framed.receive())
        assert answer.limit == RelayLimits().told
        assert answer.reservation is not None
        voucher = read_voucher(answer.reservation.voucher)
        assert voucher == Voucher(s.relay.peer_id, s.target.peer_id, answer.reservation.expire)


@pytest.mark.parametrize("wrong", ["voucher", "peer", "silent", "status", "nowhere"])
async def test_a_relay_that_does_it_wrong_is_not_kept(autojump_clock: Any, wrong: str) -> None:
    async with scene(reserved=False) as s:

        async def serve(stream: Any, link: Any) -> None:
            framed = Framed(stream, MAX_MESSAGE_BYTES)
            await framed.receive()
            if wrong == "silent":
                await trio.sleep_forever()
            expire = s.world.clock.utc_ns() // 10**9 + 3600
            peer = s.caller.peer_id if wrong == "peer" else s.target.peer_id
            key = s.caller.key if wrong == "voucher" else s.relay.key
            voucher = sign_voucher(Voucher(s.relay.peer_id, peer, expire), key)
            status = Status.RESERVATION_REFUSED if wrong == "status" else Status.OK
            message = HopMessage(Kind.STATUS, reservation=Reservation(expire, (), voucher), status=status)
            await framed.send(encode_hop(message))

        s.relay.handlers[HOP] = serve, False
        # Where the target was dialled by the relay, it knows of no address but those that it is told.
        one, other = (s.relay, s.target) if wrong == "nowhere" else (s.target, s.relay)
        await s.world.connect(one, other)
        s.client.want(1)
        s.client.know(s.target.links())
        await trio.sleep(600)
        assert s.client.relays == ()


@pytest.mark.parametrize(
    "text", ["", "/ip4/1.2.3.4/tcp/1", "/ip4/1.2.3.4/tcp/1/p2p-circuit", "x/p2p-circuit/y"]
)
def test_what_is_no_circuit_is_not_dialled(text: str) -> None:
    with pytest.raises(PeerUnreachable, match="not an address through a relay"):
        split(text)


async def test_an_address_through_a_relay_is_taken_apart(autojump_clock: Any) -> None:
    async with scene() as s:
        before, relay, target = split(s.circuit_address)
        assert (before, relay, target) == (s.relay.full_address, s.relay.peer_id, s.target.peer_id)
        assert str(parse(s.circuit_address)) == s.circuit_address
