"""The overlay on libp2p, over real sockets on loopback: conformance, hello, discovery, and what it survives."""

from __future__ import annotations

import os
import socket
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest
import trio
from libp2p.peer.peerinfo import info_from_p2p_addr
from multiaddr import Multiaddr
from structlog.testing import capture_logs
from trio.testing import wait_all_tasks_blocked

from p2p.discovery import FilePeerStore
from p2p.host.overlay import ListenFailed
from p2p.identity import PrivateKey
from p2p.overlay import Overlay, PeerUnreachable, Stream, StreamBroken, protocol_id
from p2p.session.frames import DATA, INITIAL_WINDOW, SYN, frame
from p2p.testing.conformance import (
    CHECKS,
    broken,
    connect,
    echo,
    eventually,
    receive_all,
    serve,
    settled,
)
from tests.p2p.host.nodes import QUICK, ids, make, pair, place_of, session_of, works

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_conformance(check: Callable[[Overlay, Overlay], Awaitable[None]]) -> None:
    with trio.fail_after(30):
        async with pair() as (a, b):
            await check(a, b)


async def test_peer_info_says_where_and_what() -> None:
    b = make(agent="bob/2")
    async with make(agent="alice/1").running() as a, b.running():
        await connect(a, b)
        (there,), (here,) = a.peers(), b.peers()
        assert (there.agent, here.agent) == ("bob/2", "alice/1")
        assert there.address == b.listen_addresses()[0].split("/p2p/")[0]
        assert here.address.startswith("/ip4/127.0.0.1/tcp/")


async def test_an_address_without_peer_id_proves_who_is_there() -> None:
    async with pair() as (a, b):
        bare = b.listen_addresses()[0].split("/p2p/")[0]
        assert await a.connect(bare) == b.node_id
        assert await a.connect(bare) == b.node_id
        await wait_all_tasks_blocked(0.05)
        assert len(a._sessions) == 1
        with pytest.raises(PeerUnreachable, match="itself"):
            await a.connect(a.listen_addresses()[0].split("/p2p/")[0])


async def test_somebody_else_at_an_address_is_refused() -> None:
    async with pair() as (a, b):
        wrong = f"{b.listen_addresses()[0].split('/p2p/')[0]}/p2p/{make()._peer_id}"
        with pytest.raises(PeerUnreachable, match="was expected"):
            await a.connect(wrong)
        assert not a.peers()
        await connect(a, b)


async def test_nobody_at_a_port() -> None:
    async with make().running() as a:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            port = closed.getsockname()[1]
            with pytest.raises(PeerUnreachable, match="no session"):
                await a.connect(f"/ip4/127.0.0.1/tcp/{port}")


async def test_a_taken_port_is_an_error_and_not_shared() -> None:
    async with make().running() as a:
        taken = a.listen_addresses()[0].split("/p2p/")[0]
        with pytest.RaisesGroup(pytest.RaisesExc(ListenFailed, match="is taken"), flatten_subgroups=True):
            async with make(listen=[taken]).running():
                pass
    with pytest.RaisesGroup(pytest.RaisesExc(ListenFailed, match="not an address"), flatten_subgroups=True):
        async with make(listen=["nonsense"]).running():
            pass


async def test_a_wildcard_is_told_as_addresses_that_can_be_dialled() -> None:
    async with make(listen=["/ip4/0.0.0.0/tcp/0"]).running() as a, make().running() as b:
        assert a.listen_addresses()
        assert not any("/0.0.0.0/" in address for address in a.listen_addresses())
        assert await b.connect(a.listen_addresses()[0]) == a.node_id


# Hello and discovery.


async def test_another_network_is_dropped_with_a_reason() -> None:
    async with make().running() as a, make("test").running() as b:
        with (
            capture_logs() as logs,
            pytest.raises(PeerUnreachable, match="on network 'test', this node on 'devnet'"),
        ):
            await a.connect(b.listen_addresses()[0])
        assert any("'test'" in entry.get("reason", "") for entry in logs)
        await eventually(lambda: not len(a._sessions) and not len(b._sessions))


async def test_another_version_is_a_clear_error_on_both_sides() -> None:
    async with make(version=1).running() as a, make(version=3, oldest=2).running() as b:
        with capture_logs() as logs:
            with pytest.raises(PeerUnreachable, match="this node needs an update"):
                await a.connect(b.listen_addresses()[0])
            await eventually(lambda: any("the peer needs an update" in e.get("reason", "") for e in logs))
        await eventually(lambda: not len(a._sessions) and not len(b._sessions))


async def test_three_nodes_of_which_one_knows_only_the_middle_one() -> None:
    async with (
        make(settings=QUICK).running() as b,
        make(bootstrap=b.listen_addresses(), settings=QUICK).running() as a,
    ):
        await eventually(lambda: ids(b) == {a.node_id})
        async with make(bootstrap=b.listen_addresses(), settings=QUICK).running() as c:
            await eventually(lambda: ids(c) == {a.node_id, b.node_id})
            await works(c, a)


async def test_bootstrap_may_come_up_late_and_come_back() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        listen = [f"/ip4/127.0.0.1/tcp/{probe.getsockname()[1]}"]
    key = PrivateKey(os.urandom(32))
    async with make(bootstrap=listen, settings=QUICK).running() as a:
        for _ in range(2):
            async with make(key=key, listen=listen).running() as b:
                await eventually(lambda: ids(a) == {key.node_id})
                await works(b, a)
            await eventually(lambda: not a.peers())


async def test_the_address_book_survives_a_restart(tmp_path: Path) -> None:
    key = PrivateKey(os.urandom(32))
    path = tmp_path / "peers.json"
    async with make().running() as b:
        async with make(
            key=key, bootstrap=b.listen_addresses(), peer_store=FilePeerStore(path)
        ).running() as a:
            await eventually(lambda: ids(a) == {b.node_id})
        assert path.stat().st_size
        async with make(key=key, peer_store=FilePeerStore(path), settings=QUICK).running() as a:
            await eventually(lambda: ids(a) == {b.node_id})
            await works(a, b)


async def test_both_dialling_at_once_makes_one_peer() -> None:
    async with pair() as (a, b):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.connect, b.listen_addresses()[0])
            nursery.start_soon(b.connect, a.listen_addresses()[0])
        assert (len(a.peers()), len(b.peers())) == (1, 1)
        await works(a, b)
        await works(b, a)


async def test_streams_live_on_both_sessions_of_peers_that_dialled_each_other_at_once() -> None:
    async with pair() as (a, b):
        protocols = serve(a, "talk", echo), serve(b, "talk", echo)
        streams: list[Stream] = []

        async def dial_and_open(me: Overlay, other: Overlay) -> None:
            await me.connect(other.listen_addresses()[0])
            streams.append(await me.open_stream(other.node_id, protocols[0]))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(dial_and_open, a, b)
            nursery.start_soon(dial_and_open, b, a)
        await eventually(lambda: len(a._sessions) == len(b._sessions) == 2)
        for stream in streams:  # whichever session a stream was opened on, it goes on
            await stream.send_all(b"still here")
            assert await stream.receive_some() == b"still here"
            await stream.aclose()


# What it survives.


@pytest.mark.slow
async def test_three_hundred_reconnects_leave_nothing_behind() -> None:
    async with pair() as (a, b):
        address = b.listen_addresses()[0]

        async def connect_and_leave(times: int) -> None:
            for _ in range(times):
                await connect(a, b)
                await a.disconnect(b.node_id)
                await eventually(lambda: not b.peers())

        def held() -> tuple[int, int]:
            return trio.lowlevel.current_statistics().tasks_living, len(os.listdir("/proc/self/fd"))

        def quiet() -> bool:
            return not any(len(o._sessions) or o._host.get_network().connections for o in (a, b))

        await connect_and_leave(5)
        await eventually(quiet)
        await trio.sleep(0.5)
        before = held()
        await connect_and_leave(300)
        await eventually(quiet)
        await eventually(lambda: held() <= before)
        assert await a.connect(address) == b.node_id
        await works(a, b)


GARBAGE = {
    "nothing": b"",
    "noise": os.urandom(4096),
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "long line": b"\xff\xff\xff\x7f" + b"x" * 4096,
    "plaintext": b"\x13/multistream/1.0.0\n\x11/plaintext/2.0.0\n",
    "no handshake": b"\x13/multistream/1.0.0\n\x07/noise\n",
    "bad handshake": b"\x13/multistream/1.0.0\n\x07/noise\n\x00\x20"
    + os.urandom(32)
    + b"\xff\xff"
    + os.urandom(200),
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
async def test_garbage_on_the_listener_is_harmless(garbage: bytes) -> None:
    async with pair() as (a, b):
        async with AsyncExitStack() as stack:
            answers = []
            for _ in range(10):
                stream = await stack.enter_async_context(await trio.open_tcp_stream(*place_of(b)))
                await stream.send_all(garbage)
                answers.append(stream)
            await connect(a, b)
            await works(a, b)
        if garbage is GARBAGE["plaintext"]:
            async with await trio.open_tcp_stream(*place_of(b)) as stream:
                await stream.send_all(garbage)
                answer = b""
                while b"na\n" not in answer:
                    piece = await stream.receive_some()
                    assert piece, answer
                    answer += piece
                assert b"plaintext" not in answer
        await works(a, b)


async def test_garbage_inside_a_session_ends_that_session_only() -> None:
    async with pair() as (a, b):
        for attack in range(5):
            await connect(a, b)
            wire = session_of(a, b).wire
            if attack == 4:  # encrypted wrongly
                wire._wire.send_now(b"\0\xc8" + os.urandom(200))
            else:  # encrypted rightly, but no yamux
                wire.core._control += b"\xff" + os.urandom(12 * 100)
                wire.wake_writer()
            async with make().running() as c:
                await connect(c, b)
                await works(c, b)
            await a.disconnect(b.node_id)
            await eventually(lambda: not a.peers() and not b.peers())


async def test_garbage_on_every_protocol_breaks_its_stream_at_most() -> None:
    async with pair() as (a, b):
        serve(b, "echo", echo)
        await connect(a, b)
        served = [str(protocol) for protocol in b._host.served if "hello" not in str(protocol)]
        assert served == ["/ipfs/id/1.0.0", *b._handlers]
        for protocol in served:
            for garbage in (b"", os.urandom(500), b"\xff" * 70_000):
                stream = await a.open_stream(b.node_id, protocol)
                with trio.move_on_after(1):
                    try:
                        await stream.send_all(garbage)
                        await stream.send_eof()
                        await receive_all(stream)
                    except StreamBroken:
                        pass
                stream.reset()
        for garbage in (b"", b"\0", os.urandom(500)):  # instead of multistream-select
            raw = session_of(a, b).wire._open()
            await raw.send_all(garbage)
            await raw.send_eof()
        assert ids(a) == {b.node_id}
        await works(a, b)


async def test_a_hello_that_cannot_be_read_ends_the_session() -> None:
    async with pair() as (a, b):
        await connect(a, b)
        stream = await a.open_stream(b.node_id, protocol_id("devnet", "hello", 1))
        await stream.send_all(b"\0\0\0\5hello")
        await eventually(lambda: not a.peers() and not b.peers())
        await connect(a, b)
        await works(a, b)


async def test_a_peer_that_ignores_its_window_is_cut_off() -> None:
    async with pair() as (a, b):

        async def never_read(stream: Stream) -> None:
            await stream.send_all(b"!")
            await trio.sleep_forever()

        protocol = serve(b, "never", never_read)
        await connect(a, b)
        stream = await a.open_stream(b.node_id, protocol)
        await stream.receive_some()
        stream.core.send_window = 2**31  # type: ignore[attr-defined]
        with pytest.raises(StreamBroken):
            await stream.send_all(bytes(2**23))
        await eventually(lambda: not a.peers() and not b.peers())
        await connect(a, b)
        await works(a, b)


async def test_a_huge_frame_is_not_read() -> None:
    async with pair() as (a, b):
        await connect(a, b)
        wire = session_of(a, b).wire
        wire.core._control += frame(DATA, SYN, 99, INITIAL_WINDOW + 1)
        wire.wake_writer()
        await eventually(lambda: not b.peers())


@pytest.mark.slow
async def test_a_reader_may_stall_for_longer_than_stock_yamux_waits() -> None:
    async with pair() as (a, b):
        go_on = trio.Event()

        async def stall(stream: Stream) -> None:
            await go_on.wait()
            data = await receive_all(stream)
            await stream.send_all(len(data).to_bytes(8, "big"))

        protocol = serve(b, "stall", stall)
        await connect(a, b)
        stream = await a.open_stream(b.node_id, protocol)
        sent = [0]

        async def send() -> None:
            for _ in range(64):
                await stream.send_all(bytes(65_536))
                sent[0] += 65_536
            await stream.send_eof()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await settled(lambda: sent[0], limit=2**21)
            await trio.sleep(6)
            go_on.set()
        assert await receive_all(stream) == (64 * 65_536).to_bytes(8, "big")


async def test_a_peer_that_opens_too_many_streams_is_bounded() -> None:
    async with pair() as (a, b):

        async def hold(stream: Stream) -> None:
            await stream.send_all(b"!")
            await trio.sleep_forever()

        protocol = serve(b, "hold", hold)
        await connect(a, b)
        wire, there = session_of(a, b).wire, session_of(b, a).wire
        streams = []
        for _ in range(300):
            stream = wire._open()
            stream.propose(protocol)
            streams.append(stream)
        await eventually(lambda: there.stream_count == 256)
        for stream in streams[256:]:
            await broken(stream.receive_some)
        for stream in streams:
            stream.reset()
        await eventually(lambda: there.stream_count == 0)
        (await a.open_stream(b.node_id, protocol)).reset()
        await works(a, b)


async def test_closing_with_many_sessions_is_bounded() -> None:
    async with AsyncExitStack() as stack:
        others = [await stack.enter_async_context(make().running()) for _ in range(12)]
        async with make().running() as hub:
            for other in others:
                await connect(other, hub)
            closing = trio.current_time()
        # The bound that the overlay promises; stock libp2p closes one after the other and takes 0.2 s for each.
        assert trio.current_time() - closing < 2
        await eventually(lambda: not any(other.peers() for other in others))


async def test_a_cancelled_overlay_closes() -> None:
    async with make().running() as b:
        place = ("", 0)
        with trio.CancelScope() as scope:
            async with make().running() as a:
                place = place_of(a)
                await connect(a, b)
                session = session_of(a, b)
                scope.cancel()
                await trio.sleep(60)
        assert session.closed
        await eventually(lambda: not b.peers())
        with pytest.raises(OSError, match="failed"):
            await trio.open_tcp_stream(*place)


async def test_libp2p_dials_nobody_by_itself() -> None:
    a = make()
    async with make().running() as b:
        peer = info_from_p2p_addr(Multiaddr(b.listen_addresses()[0]))
        a._host.get_peerstore().add_addrs(peer.peer_id, peer.addrs, 3600)
        async with a.running():
            await trio.sleep(0.5)
            assert not a._host.get_network().get_connections()
            assert not b._host.get_network().get_connections()


async def test_protocols_wait_for_hello() -> None:
    async with pair() as (a, b):
        protocol = serve(b, "gated", echo)
        _, session = await a._dialer.dial(b.listen_addresses())
        stream = await session.open_stream(protocol)
        await stream.send_all(b"x")
        with trio.move_on_after(0.3) as scope:
            await stream.receive_some()
        assert scope.cancelled_caught
        assert not a.peers()
        assert not b.peers()
        await a._door.enter_dialled(session, b.node_id)
        assert await stream.receive_some() == b"x"
