"""Foreign libp2p programs: whole py-libp2p hosts, which know nothing of our hello, as guests of a node."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import structlog
import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair as new_ed25519
from libp2p.crypto.secp256k1 import create_new_key_pair as new_secp256k1
from libp2p.host.ping import PingService
from libp2p.peer.peerinfo import info_from_p2p_addr
from multiaddr import Multiaddr

from p2p.broadcast.driver import GossipBroadcast
from p2p.clock import SystemClock
from p2p.discovery.admission import GUEST_PATIENCE
from p2p.entropy import SystemEntropy
from p2p.host.limits import HostLimits
from p2p.identity import NodeId, PrivateKey
from p2p.identity.peer_id import node_id_of_peer
from p2p.overlay import PeerChange, PeerUnreachable, is_guest
from p2p.testing.conformance import ask, broken, connect, echo, eventually, receive_all, serve
from tests.p2p.broadcast.stock import stock_gossip
from tests.p2p.broadcast.world import NAME, WIRE_NAME, Store, record
from tests.p2p.host.nodes import make, pair, session_of, works

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from p2p.host.overlay import LibP2POverlay
    from p2p.overlay import Stream

KINDS = ("secp256k1", "ed25519")
PING = "/ipfs/ping/1.0.0"


def foreign_host(kind: str) -> Any:
    return new_host(key_pair=new_secp256k1(os.urandom(32)) if kind == "secp256k1" else new_ed25519())


@asynccontextmanager
async def running(host: Any) -> AsyncIterator[Any]:
    async with host.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        yield host
        await host.close()


async def meet(node: LibP2POverlay, host: Any, *, we_dial: bool) -> str:
    """Connect a node and a foreign host; returns the guest's name once it is one."""
    name = str(host.get_id())
    if we_dial:
        assert await node.connect(str(host.get_addrs()[0])) == name
    else:
        await host.connect(info_from_p2p_addr(Multiaddr(node.listen_addresses()[0])))
    await eventually(lambda: [guest.node_id for guest in node.guests()] == [name])
    return name


@pytest.mark.parametrize("we_dial", [True, False])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_foreign_program_is_a_guest(kind: str, we_dial: bool) -> None:
    changes: list[PeerChange] = []
    nodes_only: list[PeerChange] = []
    seen: list[str] = []

    async def note(stream: Stream) -> None:
        seen.append(stream.peer)
        await echo(stream)

    async with make().running() as node, running(foreign_host(kind)) as host:
        node.subscribe_peers(changes.append, guests=True)
        node.subscribe_peers(nodes_only.append)
        node.serve("/open/1.0.0", note, guests=True)
        private = serve(node, "private", note)
        name = await meet(node, host, we_dial=we_dial)
        assert is_guest(name)
        (guest,) = node.guests()
        assert guest.agent.startswith("py-libp2p/")
        assert guest.direction == ("out" if we_dial else "in")
        assert not node.peers()
        assert (changes, nodes_only) == ([PeerChange(name, True)], [])

        # From the node to the guest.
        stream = await node.open_stream(name, PING)
        assert stream.peer == name
        await stream.send_all(bytes(range(32)))
        assert await stream.receive_some() == bytes(range(32))
        await stream.aclose()

        # From the guest to the node: identify and ping of libp2p, and what is served to guests.
        me = info_from_p2p_addr(Multiaddr(node.listen_addresses()[0])).peer_id
        assert len(await PingService(host).ping(me, 3)) == 3
        served = host.get_peerstore().get_protocols(me)
        assert {PING, "/open/1.0.0", node.discovery.protocol} <= set(served)
        talk = await host.new_stream(me, ["/open/1.0.0"])
        await talk.write(b"hello")
        assert await talk.read(5) == b"hello"
        assert seen == [name]
        with pytest.raises(Exception, match="failed to open a stream"):
            await host.new_stream(me, [private])
        assert seen == [name]

        await node.disconnect(name)
        await eventually(lambda: not node.guests())
        assert changes[-1] == PeerChange(name, False)
        with pytest.raises(PeerUnreachable, match="guests are not dialled"):
            await node.open_stream(name, PING)


@pytest.mark.parametrize("we_dial", [True, False])
@pytest.mark.parametrize("kind", KINDS)
async def test_gossip_goes_both_ways(kind: str, we_dial: bool) -> None:
    key, store = PrivateKey(os.urandom(32)), Store()
    node = make(key=key)
    log = structlog.wrap_logger(structlog.ReturnLogger(), processors=[lambda *_: ""])
    broadcast = GossipBroadcast(node, key, SystemClock(), SystemEntropy(), log)
    async with (
        node.running(),
        stock_gossip(None, WIRE_NAME, foreign_host(kind)) as (host, pubsub, subscription),
        broadcast.running(),
    ):
        await broadcast.join(store)
        name = await meet(node, host, we_dial=we_dial)
        await eventually(lambda: list(broadcast.mesh(NAME)) == [name], 20)
        await broadcast.publish(NAME, record("ours"))
        with trio.fail_after(20):
            assert (await subscription.get()).data == record("ours")
        await pubsub.publish(WIRE_NAME, record("theirs"))
        await eventually(lambda: store.held() == {"theirs": 1}, 20)
        assert store.sources == [name]
        assert broadcast.points(NodeId(name)) == 0.0
        assert broadcast.counters().get("synced_out", 0) == 0
        await host.close()


async def test_an_early_stream_waits_until_it_is_decided_who_comes() -> None:
    async with make().running() as node, running(foreign_host("ed25519")) as host:
        node.serve("/open/1.0.0", echo, guests=True)
        me = info_from_p2p_addr(Multiaddr(node.listen_addresses()[0]))
        await host.connect(me)
        talk = await host.new_stream(me.peer_id, ["/open/1.0.0"])
        await talk.write(b"hello")
        assert not node.guests()
        with trio.fail_after(GUEST_PATIENCE * 5):
            assert await talk.read(5) == b"hello"
        assert node.guests()


@pytest.mark.parametrize("we_dial", [True, False])
async def test_a_program_with_protocols_of_ours_is_no_guest(we_dial: bool) -> None:
    host = foreign_host("ed25519")

    async def refuse(stream: Any) -> None:
        await stream.reset()

    host.set_stream_handler("/golem-p2p/test/hello/1", refuse)
    host.set_stream_handler("/golem-p2p/test/bus/1", refuse)
    async with make().running() as node, running(host):
        if we_dial:
            with pytest.raises(PeerUnreachable, match="on network 'test', this node on 'devnet'"):
                await node.connect(str(host.get_addrs()[0]))
        else:
            await host.connect(info_from_p2p_addr(Multiaddr(node.listen_addresses()[0])))
            await eventually(lambda: len(node._sessions) == 1)
        await eventually(lambda: len(node._sessions) == 0)
        assert not node.guests()


async def test_guests_are_limited_in_number() -> None:
    node, friend = make(limits=HostLimits(guests=1)), make()
    first, second = foreign_host("ed25519"), foreign_host("secp256k1")
    async with node.running(), friend.running(), running(first), running(second):
        await meet(node, first, we_dial=True)
        with pytest.raises(PeerUnreachable, match="1 guests, and no more"):
            await node.connect(str(second.get_addrs()[0]))
        await connect(friend, node)
        await works(friend, node)
        assert len(node.guests()) == 1


async def test_a_guest_is_not_reached_by_a_node_id() -> None:
    async with make().running() as node, running(foreign_host("secp256k1")) as host:
        name = str(host.get_id())
        node_id = node_id_of_peer(name)
        node.discovery.suggest(node_id, str(host.get_addrs()[0]))
        with pytest.raises(PeerUnreachable, match="foreign libp2p program"):
            await node.open_stream(node_id, PING)
        assert [guest.node_id for guest in node.guests()] == [name]
        assert node_id not in {record.node_id for record in node.discovery.policy.records()}


async def test_a_guest_that_says_hello_is_dropped() -> None:
    """A node of ours that pretends to be a foreign program, and then is none."""
    async with pair() as (liar, node):
        _, session = await liar._dialer.dial(node.listen_addresses())
        liar._host.served.clear()
        liar._host.served[PING] = None
        liar._host.served["/ipfs/id/1.0.0"] = liar._host.identify
        await eventually(lambda: bool(node.guests()))

        async def say_hello() -> None:
            await receive_all(await session.open_stream(node.discovery.protocol))

        await broken(say_hello)
        await eventually(lambda: not node.guests() and not len(node._sessions))


async def test_a_guest_makes_room_for_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2p.host.entrance.SETTLING", 0.0)
    node, old, new = make(limits=HostLimits(prune_above=2)), make(), make()
    async with node.running(), old.running(), new.running(), running(foreign_host("ed25519")) as host:
        await connect(old, node)
        name = await meet(node, host, we_dial=True)
        await eventually(lambda: not session_of_guest(node, name).wire.stream_count)
        await connect(new, node)
        await eventually(lambda: not node.guests())
        assert {peer.node_id for peer in node.peers()} == {old.node_id, new.node_id}
        stream = await new.open_stream(node.node_id, serve(node, "echo", echo))
        assert await ask(stream, b"x") == b"x"
        assert session_of(node, new)


def session_of_guest(node: LibP2POverlay, name: str) -> Any:
    return node._sessions.newest(name)
