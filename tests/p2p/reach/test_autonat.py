"""Dialling back: what a server decides, and both ends with real sessions in memory."""

from __future__ import annotations

import random
from typing import Any

import pytest
import trio

from p2p.overlay import OverlayError, PeerUnreachable
from p2p.reach.autonat import LEAST_DATA, MOST_DATA, Dial, DialBackDesk, Refused, ServerLimits
from p2p.reach.autonat_wire import (
    DIAL_BACK,
    DIAL_REQUEST,
    MAX_MESSAGE_BYTES,
    Answer,
    DialData,
    DialDataRequest,
    Dialled,
    DialRequest,
    DialResponse,
    decode,
    encode,
)
from p2p.reach.dial_back import DialBackClient, DialBackServer
from p2p.reach.framing import Framed
from tests.p2p.reach.world import World, world

CHANCE = random.Random(1)
AT = "/ip4/203.0.113.5/tcp/9999"
OWN, OTHER = "/ip4/203.0.113.5/tcp/4001", "/ip4/203.0.113.77/tcp/4001"


def begin(desk: DialBackDesk, *addresses: str | None, now: float = 0.0, peer: str = "a") -> Dial | Refused:
    return desk.begin(now, peer, AT, addresses, lambda a: "/192.168." not in a, CHANCE)


def test_an_address_of_the_asker_itself_costs_nothing() -> None:
    assert begin(DialBackDesk(ServerLimits()), OWN) == Dial(0, OWN, 0)


def test_the_first_that_can_be_dialled_is() -> None:
    unfit = (None, "/dns4/x/tcp/1", "/ip4/203.0.113.5/udp/1", "/ip4/192.168.0.1/tcp/1", OWN + "/p2p-circuit")
    assert begin(DialBackDesk(ServerLimits()), *unfit, OWN, OTHER) == Dial(len(unfit), OWN, 0)
    assert begin(DialBackDesk(ServerLimits()), *unfit) == Refused(busy=False)


def test_an_address_elsewhere_costs_more_than_a_dial_is_worth() -> None:
    desk = DialBackDesk(ServerLimits(at_once=100, per_peer_per_minute=100, elsewhere_per_minute=100))
    dials = [begin(desk, OTHER) for _ in range(20)]
    costs = {dial.data for dial in dials if isinstance(dial, Dial)}
    assert len(costs) > 1
    assert all(LEAST_DATA <= cost < MOST_DATA for cost in costs)


def test_requests_are_limited_at_once_by_peer_in_all_and_elsewhere() -> None:
    desk = DialBackDesk(
        ServerLimits(requests_per_minute=4, per_peer_per_minute=2, elsewhere_per_minute=1, at_once=2)
    )
    assert isinstance(begin(desk, OWN), Dial)
    assert isinstance(begin(desk, OTHER), Dial)
    assert begin(desk, OWN, peer="b") == Refused(busy=True), "two at once"
    desk.end()
    assert begin(desk, OWN, now=1) == Refused(busy=True), "the same peer a third time"
    assert begin(desk, OTHER, now=1, peer="b") == Refused(busy=True), "a second one elsewhere"
    assert isinstance(begin(desk, OWN, now=1, peer="c"), Dial)
    desk.end()
    assert begin(desk, OWN, now=2, peer="d") == Refused(busy=True), "a fifth in all"
    assert isinstance(begin(desk, OTHER, now=61), Dial)


class Scene:
    def __init__(self, w: World, *, open_: bool = True, outer: str = "/ip4/203.0.113.5/tcp/4001") -> None:
        self.server_host = w.host("/ip4/198.51.100.1/tcp/4001")
        self.host = w.host("/ip4/192.168.1.5/tcp/4001", outer, open_=open_)
        DialBackServer(self.server_host, clock=w.clock, entropy=self.server_host.entropy).start()
        self.client = DialBackClient(self.host, entropy=self.host.entropy)
        self.client.start()
        self.world = w

    async def ask(self, *addresses: str, seen: str = "") -> tuple[str, bool]:
        link = await self.world.connect(self.host, self.server_host, seen=seen or self.host.outer)
        return await self.client.ask(link, addresses)


async def test_who_can_be_dialled_is_dialled(autojump_clock: Any) -> None:
    async with world() as w:
        scene = Scene(w)
        assert await scene.ask(OWN) == (OWN, True)
        assert scene.server_host.probes == [OWN]
        assert [link.path for link in scene.host.links()] == ["direct"], "the probe was not kept"


async def test_who_cannot_is_not(autojump_clock: Any) -> None:
    async with world() as w:
        assert await Scene(w, open_=False).ask(OWN) == (OWN, False)


async def test_an_address_elsewhere_is_paid_for_and_dialled(autojump_clock: Any) -> None:
    async with world() as w:
        scene = Scene(w)
        assert await scene.ask(OWN, seen=OTHER) == (OWN, True)


async def test_addresses_that_are_not_for_this_network_are_refused(autojump_clock: Any) -> None:
    async with world() as w:
        scene = Scene(w)
        with pytest.raises(PeerUnreachable, match="DIAL_REFUSED"):
            await scene.ask("/ip4/192.168.1.5/tcp/4001")
        assert scene.server_host.probes == []


async def test_who_does_not_pay_is_not_dialled(autojump_clock: Any) -> None:
    async with world() as w:
        scene = Scene(w)
        link = await w.connect(scene.host, scene.server_host)
        framed = Framed(await link.open_stream(DIAL_REQUEST), MAX_MESSAGE_BYTES)
        await framed.send(encode(DialRequest((OTHER,), 1)))
        demand = decode(await framed.receive())
        assert isinstance(demand, DialDataRequest)
        await framed.send(encode(DialData(bytes(10))))
        answer = decode(await framed.receive())
        assert answer == DialResponse(Answer.REJECTED)
        assert scene.server_host.probes == []


@pytest.mark.parametrize("said", [b"", b"\xff", encode(DialData(b"x")), encode(DialResponse(Answer.OK))])
async def test_what_is_no_request_is_refused(autojump_clock: Any, said: bytes) -> None:
    async with world() as w:
        scene = Scene(w)
        link = await w.connect(scene.host, scene.server_host)
        framed = Framed(await link.open_stream(DIAL_REQUEST), MAX_MESSAGE_BYTES)
        await framed.send(said)
        assert decode(await framed.receive()) == DialResponse(Answer.REJECTED)


@pytest.mark.parametrize(
    "lie",
    [
        DialResponse(Answer.OK, 0, Dialled.OK),
        DialResponse(Answer.OK, 7, Dialled.OK),
        DialDataRequest(0, 10**9),
        DialDataRequest(0, 1),
        DialDataRequest(5, LEAST_DATA),
        DialRequest((), 0),
    ],
)
async def test_a_server_that_lies_is_not_believed(autojump_clock: Any, lie: Any) -> None:
    async with world() as w:
        scene = Scene(w)

        async def serve(stream: Any, link: Any) -> None:
            framed = Framed(stream, MAX_MESSAGE_BYTES)
            await framed.receive()
            await framed.send(encode(lie))
            await trio.sleep_forever()

        scene.server_host.serve(DIAL_REQUEST, serve)
        with pytest.raises(OverlayError):
            await scene.ask(OWN)


async def test_a_nonce_that_nobody_gave_out_is_worth_nothing(autojump_clock: Any) -> None:
    async with world() as w:
        scene = Scene(w)

        async def bring(stream: Any, link: Any) -> None:
            framed = Framed(stream, MAX_MESSAGE_BYTES)
            await framed.receive()
            await framed.send(encode(DialResponse(Answer.OK, 0, Dialled.OK)))

        scene.server_host.serve(DIAL_REQUEST, bring)
        with pytest.raises(PeerUnreachable, match="its nonce has not come"):
            await scene.ask(OWN)
        async with scene.server_host.probe(OWN, scene.host.peer_id, DIAL_BACK) as stream:
            await Framed(stream, MAX_MESSAGE_BYTES).send(b"\x09" + bytes(8))
            with pytest.raises(OverlayError):
                await Framed(stream, MAX_MESSAGE_BYTES).receive()
