"""How a node gets to another: all its addresses, a directory, relays; from which port; and who is let in."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from p2p.broadcast.wire import PROTOCOL_12
from p2p.host.identify import identify
from p2p.host.limits import HostLimits
from p2p.host.tcp import Place, ends
from p2p.identity import NodeId
from p2p.overlay import PeerUnreachable
from p2p.session import BothSpokeFirst, HandshakeFailed, SessionError
from p2p.testing.conformance import ask, connect, echo, eventually, serve
from tests.p2p.host.nodes import direct, further_session, make, pair, place_of, relayed, session_of, works

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from p2p.host.overlay import LibP2POverlay


def peer_part(overlay: LibP2POverlay) -> str:
    return "/p2p/" + overlay.listen_addresses()[0].split("/p2p/")[1]


def knows(a: LibP2POverlay, b: LibP2POverlay, *addresses: str) -> None:
    """Enter addresses of `b` in the book of `a`, in this order."""
    for address in addresses:
        a.discovery.suggest(b.node_id, address + peer_part(b))


@asynccontextmanager
async def silent() -> AsyncIterator[str]:
    """Listen somewhere and never say a word; yields the address."""
    with trio.socket.socket() as sock:
        await sock.bind(("127.0.0.1", 0))
        sock.listen(5)
        yield f"/ip4/127.0.0.1/tcp/{sock.getsockname()[1]}"


@asynccontextmanager
async def refusing() -> AsyncIterator[str]:
    """Hold a port at which nobody listens; yields the address."""
    with trio.socket.socket() as sock:
        await sock.bind(("127.0.0.1", 0))
        yield f"/ip4/127.0.0.1/tcp/{sock.getsockname()[1]}"


def bare(overlay: LibP2POverlay) -> str:
    return overlay.listen_addresses()[0].split("/p2p/")[0]


async def test_an_address_that_does_not_answer_does_not_hold_up_one_that_does() -> None:
    async with pair() as (a, b), silent() as mute, refusing() as nobody:
        protocol = serve(b, "echo", echo)
        knows(a, b, nobody, mute, bare(b))
        with trio.fail_after(5):  # half of what one silent address may take
            assert await ask(await a.open_stream(b.node_id, protocol), b"x") == b"x"
        assert len(a._sessions) == 1
        assert a.discovery.policy.addresses_of(b.node_id)[0] == bare(b) + peer_part(b)


async def test_every_address_has_its_reason_when_none_works() -> None:
    async with pair() as (a, b), make().running() as other, refusing() as nobody:
        knows(a, b, nobody, bare(other))
        a.discovery.suggest(b.node_id, f"{bare(other)}/p2p/{other._peer_id}/p2p-circuit{peer_part(b)}")
        with pytest.raises(PeerUnreachable) as error:
            await a.open_stream(b.node_id, "/golem-p2p/devnet/echo/1")
        message = str(error.value)
        assert "refused" in message
        assert f"{b._peer_id} was expected and {other._peer_id} is there" in message
        assert "no way through relays" in message
        with pytest.raises(PeerUnreachable, match="not an address to dial"):
            await a.connect(f"/ip4/127.0.0.1/udp/1/quic-v1{peer_part(b)}")
        await wait_all_tasks_blocked(0.01)
        assert not a.peers()


async def test_a_directory_is_asked_when_nothing_known_works() -> None:
    async with pair() as (a, b), refusing() as nobody:
        asked: list[NodeId] = []

        async def directory(peer: NodeId) -> Sequence[str]:
            asked.append(peer)
            return [nobody + peer_part(b), *b.listen_addresses()] if peer == b.node_id else []

        a.find_addresses = directory
        protocol = serve(b, "echo", echo)
        for _ in range(2):
            assert await ask(await a.open_stream(b.node_id, protocol), b"x") == b"x"
        assert asked == [b.node_id]
        stranger = NodeId("0x" + "11" * 20)
        with pytest.raises(PeerUnreachable, match="nor in the directory"):
            await a.open_stream(stranger, protocol)
        assert asked == [b.node_id, stranger]


# Relays, and direct connections beside them.


async def test_a_relayed_stream_is_a_session_like_any_other() -> None:
    async with pair() as (a, b), make().running() as relay, trio.open_nursery() as nursery:
        circuit = f"{relay.listen_addresses()[0]}/p2p-circuit"
        dialled: list[str] = []

        async def through_relay(address: str) -> trio.abc.HalfCloseableStream:
            dialled.append(address)
            ours, theirs = memory_stream_pair()

            async def other_end() -> None:
                name = await relayed(b, theirs, a._peer_id, initiator=False, relay=circuit)
                assert name == a.node_id

            nursery.start_soon(other_end)
            return ours

        a.dial_relayed = through_relay
        protocol = serve(b, "echo", echo)
        a.discovery.suggest(b.node_id, circuit + peer_part(b))
        assert await ask(await a.open_stream(b.node_id, protocol), b"x" * 500_000) == b"x" * 500_000
        assert dialled == [circuit + peer_part(b)]
        (there,), (here,) = a.peers(), b.peers()
        assert (there.path, here.path) == ("relayed", "relayed")
        assert there.address == circuit

        # A direct one beside it takes over.
        assert await a.connect(b.listen_addresses()[0]) == b.node_id
        assert len(a._sessions) == 1
        await further_session(a, b)
        assert [peer.path for peer in a.peers()] == ["direct"]
        await eventually(lambda: [peer.path for peer in b.peers()] == ["direct"])
        assert (len(a._sessions), len(b._sessions)) == (2, 2)
        stream = await a.open_stream(b.node_id, protocol)
        assert getattr(stream, "session") is session_of(a, b).wire  # noqa: B009 - of our streams only
        stream.reset()


async def test_a_stranger_through_a_relay_is_refused() -> None:
    async with pair() as (a, b):
        ours, theirs = memory_stream_pair()
        refused: list[str] = []

        async def answer() -> None:
            try:
                await relayed(b, theirs, a._peer_id, initiator=False)
            except SessionError as error:
                refused.append(str(error))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            with pytest.raises(HandshakeFailed, match="was expected"):
                await relayed(a, ours, a._peer_id, initiator=True)
        assert refused
        assert not len(a._sessions) + len(b._sessions)


async def test_both_may_dial_and_one_of_them_answers() -> None:
    async with pair() as (a, b), trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener.socket.getsockname()[1]

        async def other_end() -> None:
            async with listener:
                stream = await listener.accept()
            await direct(b, stream, a, initiator=True)

        nursery.start_soon(other_end)
        await direct(a, await trio.open_tcp_stream("127.0.0.1", port), b, initiator=False)
        await eventually(lambda: bool(a.peers() and b.peers()))
        assert [a.peers()[0].direction, b.peers()[0].direction] == ["in", "out"]
        await works(a, b)


async def test_dials_that_meet_on_the_way_are_tried_again() -> None:
    """TCP makes one connection of them, on which both ends speak first."""
    async with pair() as (a, b), trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        place = f"/ip4/127.0.0.1/tcp/{listener.socket.getsockname()[1]}"
        sources: list[str] = []

        async def other_end() -> None:
            met = await listener.accept()
            sources.append(str(ends(met)[1]))
            with pytest.raises(BothSpokeFirst):
                await direct(b, met, a, initiator=True)
            stream = await listener.accept()
            sources.append(str(ends(stream)[1]))
            await direct(b, stream, a, initiator=False)
            await listener.aclose()

        nursery.start_soon(other_end)
        assert await a.connect(place + peer_part(b)) == b.node_id
        await works(a, b)
        assert sources[0] == bare(a)
        assert sources[1] != bare(a)


# Ports, and what peers see.


@pytest.mark.parametrize("reuse_port", [True, False])
async def test_dials_leave_from_the_port_that_is_listened_on(reuse_port: bool) -> None:
    async with make(reuse_port=reuse_port).running() as a, make().running() as b, make().running() as c:
        for other in (b, c):
            await connect(a, other)
            assert (other.peers()[0].address == bare(a)) is reuse_port


async def test_a_node_that_listens_on_loopback_dials_the_world_from_any_port() -> None:
    """Bound to 127.0.0.1, the kernel would not let it out."""
    async with make().running() as inside, make(listen=["/ip4/0.0.0.0/tcp/0"]).running() as outside:
        world, here = Place("192.0.2.1", 4001), Place("127.0.0.9", 4001)
        for node in (inside, outside):
            port = place_of(node)[1]
            assert node._source_for(here) == Place("0.0.0.0", port)
            assert node._source_for(world) == (None if node is inside else Place("0.0.0.0", port))
            assert node._source_for(Place("2001:db8::1", 4001)) is None
            assert node._source_for(Place(*place_of(node))) is None


async def test_identify_tells_protocols_and_addresses() -> None:
    async with pair() as (a, b):
        protocol = serve(b, "told", echo)
        listening = bare(b)
        announced = f"/ip4/192.0.2.1/tcp/4001{peer_part(b)}"
        b.announce([announced])
        assert b.listen_addresses() == (announced, *b._listening)
        await connect(b, a)
        identified = await identify(session_of(a, b))
        assert identified is not None
        assert {protocol, b.discovery.protocol, "/ipfs/ping/1.0.0"} <= set(identified.protocols)
        assert identified.observed == bare(a)
        told = {str(address) for address in b._host.get_transport_addrs()}
        assert told == {"/ip4/192.0.2.1/tcp/4001", listening}
        await eventually(lambda: announced in a.discovery.policy.addresses_of(b.node_id))


async def test_peers_have_round_trips() -> None:
    async with pair() as (a, b):
        await connect(a, b)
        await eventually(
            lambda: all(peer.rtt is not None and peer.rtt > 0 for peer in (*a.peers(), *b.peers()))
        )


# Limits.


async def test_who_is_on_the_deny_list_is_neither_accepted_nor_dialled() -> None:
    async with make().running() as b:
        async with make(limits=HostLimits(deny=(b.node_id,))).running() as a:
            with pytest.raises(PeerUnreachable, match="deny-list"):
                await a.connect(b.listen_addresses()[0])
            with pytest.raises(PeerUnreachable):
                await b.connect(a.listen_addresses()[0])
            assert not len(a._sessions)
        async with make(limits=HostLimits(deny=("127.0.0.0/8",))).running() as a:
            with pytest.raises(PeerUnreachable, match="deny-list"):
                await a.connect(b.listen_addresses()[0])
            with pytest.raises(PeerUnreachable):
                await b.connect(a.listen_addresses()[0])


async def test_a_full_node_refuses_and_takes_again() -> None:
    async with make(limits=HostLimits(connections=2)).running() as hub:
        async with make().running() as a, make().running() as b, make().running() as c:
            for other in (a, b):
                await connect(other, hub)
            with pytest.raises(PeerUnreachable):
                await c.connect(hub.listen_addresses()[0])
            with pytest.raises(PeerUnreachable, match="no more may be"):
                await hub.connect(c.listen_addresses()[0])
            await works(a, hub)
            await a.disconnect(hub.node_id)
            await eventually(lambda: hub._gate.total == 1)
            await connect(c, hub)
        await eventually(lambda: hub._gate.total == 0)


async def test_one_address_has_no_more_than_its_share_where_loopback_is_no_exception() -> None:
    hub = make("test", limits=HostLimits(per_place=2))
    a, b, c = (make("test") for _ in range(3))
    async with hub.running(), a.running(), b.running(), c.running():
        for other in (a, b):
            await connect(other, hub)
        with pytest.raises(PeerUnreachable):
            await c.connect(hub.listen_addresses()[0])


async def test_a_peer_has_so_many_sessions_and_the_oldest_gives_way() -> None:
    async with make(limits=HostLimits(per_peer=3)).running() as a, make().running() as b:
        for _ in range(5):
            await further_session(b, a)
        await eventually(lambda: len(a._sessions) == len(b._sessions) == 3)
        assert len(a.peers()) == 1
        await works(b, a)


async def test_a_name_that_somebody_told_leads_into_no_private_network() -> None:
    async with make("test").running() as b:
        named = b.listen_addresses()[0].replace("/ip4/127.0.0.1/", "/dns4/localhost/")
        async with make("test").running() as a:
            with pytest.raises(PeerUnreachable, match="into a private network"):
                await a.connect(named)
        async with make("test", bootstrap=[named]).running() as a:
            assert await a.connect(named) == b.node_id


async def test_handshakes_that_hang_are_bounded_and_end() -> None:
    async with make(limits=HostLimits(upgrades=3)).running() as a, make().running() as b:
        hanging = [await trio.open_tcp_stream(*place_of(a)) for _ in range(3)]
        await eventually(lambda: len(a._entrance.handshakes) == 3)
        with pytest.raises(PeerUnreachable):
            await b.connect(a.listen_addresses()[0])
        for stream in hanging:
            await stream.aclose()
        await eventually(lambda: len(a._entrance.handshakes) == a._gate.total == 0)
        await connect(b, a)


async def test_handshakes_that_hang_do_not_keep_out_another_address() -> None:
    limits = HostLimits(upgrades=3)
    async with make(limits=limits).running() as a, make(reuse_port=False).running() as b:
        hanging = [
            await trio.open_tcp_stream(*place_of(a), local_address="127.0.0.2")
            for _ in range(limits.upgrades)
        ]
        await eventually(lambda: len(a._entrance.handshakes) == limits.upgrades)
        await connect(b, a)
        assert await hanging[0].receive_some() == b""  # the oldest gave way
        await eventually(lambda: len(a._entrance.handshakes) == limits.upgrades - 1)


async def test_idle_sessions_make_room_before_anybody_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2p.host.entrance.SETTLING", 0.0)
    hub = make(limits=HostLimits(prune_above=2))
    hub.serve(PROTOCOL_12, echo)
    busy, idle, fresh = (make() for _ in range(3))
    async with hub.running(), busy.running(), idle.running(), fresh.running():
        protocol = serve(hub, "echo", echo)
        await connect(busy, hub)
        stream = await busy.open_stream(hub.node_id, protocol)
        await stream.send_all(b"!")
        assert await stream.receive_some() == b"!"
        await connect(idle, hub)
        gossip = await idle.open_stream(hub.node_id, PROTOCOL_12)  # every peer has one
        await gossip.send_all(b"!")
        assert await gossip.receive_some() == b"!"
        await eventually(lambda: not any(s.held().streams for s in hub._sessions.of(idle.node_id)))
        await connect(fresh, hub)
        await eventually(lambda: not idle.peers())
        assert {peer.node_id for peer in hub.peers()} == {busy.node_id, fresh.node_id}
        await stream.send_all(b"still")
        assert await stream.receive_some() == b"still"
        stream.reset()
